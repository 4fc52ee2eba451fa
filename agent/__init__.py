"""The agent: the loop of thinking, looking and answering, and its faces in Python, the terminal and a page."""
