"""OpenAI's Responses API: what `http_edge/routes/responses.py` is made of."""
