# cmake -D ROOT=DIR -D OUT=FILE -D VERSION=... -D COMPILER=... -D BUILD_TYPE=... -P build_info.cmake: writes FILE, if that
# changes it.
execute_process(COMMAND git -C ${ROOT} describe --always --dirty --abbrev=12 --exclude=*
                OUTPUT_VARIABLE COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT COMMIT)
  set(COMMIT unknown)
endif()
if(NOT BUILD_TYPE)
  set(BUILD_TYPE none)
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/build_info.cc.in ${OUT} @ONLY)
