#include "ppose/report.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

namespace ppose {
namespace {

using nlohmann::ordered_json;

double rounded(float value, double places) {
  return std::nearbyint(static_cast<double>(value) * places) / places;
}

ordered_json described(const Person& person) {
  ordered_json keypoints = ordered_json::array();
  for (const Keypoint& joint : person.keypoints) {
    keypoints.push_back({rounded(joint.x, 1e3), rounded(joint.y, 1e3), rounded(joint.score, 1e3)});
  }
  const Box& box = person.box;
  return {{"box_xywh",
           {rounded(box.x, 1e3), rounded(box.y, 1e3), rounded(box.width, 1e3),
            rounded(box.height, 1e3)}},
          {"score", rounded(person.score, 1e5)},
          {"keypoints", std::move(keypoints)}};
}

}  // namespace

std::string Report::json() const {
  ordered_json images = ordered_json::array();
  for (const auto& [file, poses] : images_) {
    ordered_json people = ordered_json::array();
    for (const Person& person : poses.people) people.push_back(described(person));
    images.push_back({{"image", file},
                      {"image_id", nullptr},
                      {"box_source", poses.box_source},
                      {"people", std::move(people)}});
  }
  const ordered_json report{
      {"skeleton", skeleton_.name}, {"joints", skeleton_.joints}, {"images", std::move(images)}};
  // A file name may not be valid UTF-8.
  return report.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace ppose
