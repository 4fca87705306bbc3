"""RAG: documents, the indexes over them, and answers from what is found."""
