"""Records of episodes and what is made of them: numbers, tables, pages and pictures."""
