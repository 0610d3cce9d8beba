# Finds the OpenCV modules that ppose needs; defines OpenCVParts::OpenCVParts. Debian's packages of
# single modules do not contain OpenCV's CMake files.

find_package(OpenCV QUIET COMPONENTS core imgproc imgcodecs)
if(OpenCV_FOUND)
  set(OPENCV_INCLUDE_DIR ${OpenCV_INCLUDE_DIRS})
  set(OPENCV_LIBRARIES ${OpenCV_LIBS})
else()
  find_path(OPENCV_INCLUDE_DIR opencv2/imgcodecs.hpp PATH_SUFFIXES opencv4)
  set(OPENCV_LIBRARIES)
  foreach(part imgcodecs imgproc core)
    find_library(OPENCV_${part}_LIBRARY opencv_${part})
    list(APPEND OPENCV_LIBRARIES ${OPENCV_${part}_LIBRARY})
  endforeach()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OpenCVParts
  REQUIRED_VARS OPENCV_LIBRARIES OPENCV_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "needs OpenCV 4 or newer: core, imgproc and imgcodecs, with headers")

if(OpenCVParts_FOUND AND NOT TARGET OpenCVParts::OpenCVParts)
  add_library(OpenCVParts::OpenCVParts INTERFACE IMPORTED)
  set_target_properties(OpenCVParts::OpenCVParts PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${OPENCV_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES "${OPENCV_LIBRARIES}")
endif()
