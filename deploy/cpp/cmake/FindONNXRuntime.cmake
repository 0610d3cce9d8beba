# ONNX Runtime's C++ interface, as ONNXRuntime::ONNXRuntime.
#
# ONNXRUNTIME_ROOT is where its archive was unpacked. ONNXRUNTIME_INCLUDE_DIR (the folder of
# onnxruntime_cxx_api.h) and ONNXRUNTIME_LIBRARY (the shared library, that of the Python package
# too) can be given each; the library may be newer than the headers, not older.

find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_cxx_api.h
  HINTS ${ONNXRUNTIME_ROOT}
  PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session onnxruntime)
find_library(ONNXRUNTIME_LIBRARY onnxruntime HINTS ${ONNXRUNTIME_ROOT} PATH_SUFFIXES lib)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ONNXRuntime
  REQUIRED_VARS ONNXRUNTIME_LIBRARY ONNXRUNTIME_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "give -DONNXRUNTIME_ROOT=FOLDER, or -DPPOSE_RUNTIME=openvino")

if(ONNXRuntime_FOUND AND NOT TARGET ONNXRuntime::ONNXRuntime)
  set(library ${ONNXRUNTIME_LIBRARY})
  # The Python package's file has its full version for a name, not the one that is asked for when a
  # program starts.
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
