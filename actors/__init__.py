"""The actors: each is the only owner of a model or of a state, and answers on NATS subjects."""
