"""Camera messages to pixels and on to the policy's JPEG: the same code for the live observer and for bags. No rclpy."""
