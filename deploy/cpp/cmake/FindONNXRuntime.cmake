# Finds ONNX Runtime's C++ API; defines ONNXRuntime::ONNXRuntime.
#
# ONNXRUNTIME_ROOT is the folder of the unpacked release archive. Alternatively set
# ONNXRUNTIME_INCLUDE_DIR (the folder of onnxruntime_cxx_api.h) and ONNXRUNTIME_LIBRARY (the shared
# library, which may be that of the Python package). The library may be newer than the headers, not
# older.

find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_cxx_api.h
  HINTS ${ONNXRUNTIME_ROOT}
  PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session onnxruntime)
find_library(ONNXRUNTIME_LIBRARY onnxruntime HINTS ${ONNXRUNTIME_ROOT} PATH_SUFFIXES lib)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ONNXRuntime
  REQUIRED_VARS ONNXRUNTIME_LIBRARY ONNXRUNTIME_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "set -DONNXRUNTIME_ROOT=FOLDER, or -DPPOSE_RUNTIME=openvino")

if(ONNXRuntime_FOUND AND NOT TARGET ONNXRuntime::ONNXRuntime)
  set(library ${ONNXRUNTIME_LIBRARY})
  # The file name in the Python package has the full version; programs look for the soname, which has
  # the major version only.
  if(library MATCHES "libonnxruntime\\.so\\.([0-9]+)\\.")
    set(named ${CMAKE_CURRENT_BINARY_DIR}/libonnxruntime.so.${CMAKE_MATCH_1})
    file(CREATE_LINK ${library} ${named} SYMBOLIC)
    set(library ${named})
  endif()
  add_library(ONNXRuntime::ONNXRuntime UNKNOWN IMPORTED)
  set_target_properties(ONNXRuntime::ONNXRuntime PROPERTIES
    IMPORTED_LOCATION ${library}
    INTERFACE_INCLUDE_DIRECTORIES ${ONNXRUNTIME_INCLUDE_DIR})
endif()
