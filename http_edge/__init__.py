"""The edge: translates HTTP (OpenAI's API and Fusion's own) to the bus and back."""
