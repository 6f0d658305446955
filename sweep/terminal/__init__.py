"""What a person sees in a terminal or a notebook: messages, progress, and how they interrupt the work."""
