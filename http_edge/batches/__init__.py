"""Batches in OpenAI's words: from the lines of a file to requests, and from their outcomes to files."""
