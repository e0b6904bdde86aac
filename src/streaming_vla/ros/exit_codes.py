"""Exit codes of the nodes' processes that who starts them must know."""

CONFIG_ERROR = 78  # EX_CONFIG of sysexits.h: wrong parameter, file or model, so starting it again is of no use
