"""The messages: what is said on the bus, one file per capability, structs only."""
