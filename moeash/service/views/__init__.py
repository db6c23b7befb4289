"""What is known, as the documents, charts and streams that the routes answer with."""
