# Environment of the pip path, to be sourced by bash or zsh: the virtual environment and what colcon built.
# Whatever ROS installation the shell has sourced is put aside: two ROS distributions in one process crash.
STREAMING_VLA_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd -P)"

unset AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH COLCON_CURRENT_PREFIX LD_LIBRARY_PATH PYTHONPATH PYTHONHOME
unset ROS_DISTRO ROS_VERSION ROS_PYTHON_VERSION RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE

VIRTUAL_ENV="$STREAMING_VLA_ROOT/.venv"
_install="$STREAMING_VLA_ROOT/install"
_site="$("$VIRTUAL_ENV/bin/python" -S -E -c 'import sys; print("lib/python%d.%d/site-packages" % sys.version_info[:2])')"

PATH="$VIRTUAL_ENV/bin:$PATH"
AMENT_PREFIX_PATH="$_install/streaming_vla:$_install/streaming_vla_interfaces:$VIRTUAL_ENV"
LD_LIBRARY_PATH="$_install/streaming_vla_interfaces/lib"
# src first: an edited Python file counts at once, without a build.
PYTHONPATH="$STREAMING_VLA_ROOT/src:$_install/streaming_vla/$_site:$_install/streaming_vla_interfaces/$_site"
export VIRTUAL_ENV PATH AMENT_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH
unset _install _site
