"""Programs that measure Fusion. Not shipped; they start it as its users do, and look at it from outside."""
