# Remove include directories that do not exist from every imported target of this directory.
#
# The ROS 2 wheels on PyPI export the Python and NumPy headers of the machine that built them
# (/opt/python/...), and CMake stops at an imported include directory that is missing. Nothing here
# needs those headers: rosidl adds the ones of the running Python itself. Where ROS 2 is installed
# from its own packages every directory exists, and nothing is changed.
function(drop_missing_include_directories)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT directories)
      continue()
    endif()
    set(kept "")
    foreach(directory IN LISTS directories)
      # A generator expression has no path yet and stays.
      if(directory MATCHES "\\$<" OR EXISTS "${directory}")
        list(APPEND kept "${directory}")
      endif()
    endforeach()
    if(NOT kept STREQUAL directories)
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
    endif()
  endforeach()
endfunction()
