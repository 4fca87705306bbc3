"""The toy chat model that ships with Fusion, and the scripts that make it."""
