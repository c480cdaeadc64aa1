"""The pool and the target: rows of any format, chats as tokens, tokens on disk."""
