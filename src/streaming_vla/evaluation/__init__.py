"""Records of episodes and what is made of them: numbers, tables, timelines and film strips. No ROS here."""
