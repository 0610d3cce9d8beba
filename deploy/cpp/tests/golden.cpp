// Runs single steps for tests/deploy/test_cpp.py: reads a JSON request per line, prints its result.

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "ppose/bundle.hpp"
#include "ppose/error.hpp"
#include "ppose/image.hpp"

namespace {

using nlohmann::json;

std::vector<ppose::Maps> read_maps(const json& request) {
  const std::vector<int> shape = request.at("shape");
  std::ifstream file(request.at("maps").get<std::string>(), std::ios::binary);
  std::vector<ppose::Maps> maps;
  for (int i = 0; i < shape.at(0); ++i) {
    std::vector<float>& values = maps.emplace_back(shape.at(1), shape.at(2), shape.at(3)).values;
    file.read(reinterpret_cast<char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(float)));
  }
  if (!file) throw ppose::Error("the file with maps is too short");
  return maps;
}

json listed(const std::vector<ppose::Keypoint>& keypoints) {
  json rows = json::array();
  for (const ppose::Keypoint& joint : keypoints) rows.push_back({joint.x, joint.y, joint.score});
  return rows;
}

std::vector<ppose::Keypoint> keypoints_of(const json& rows) {
  std::vector<ppose::Keypoint> keypoints;
  for (const json& row : rows) keypoints.push_back({row.at(0), row.at(1), row.at(2)});
  return keypoints;
}

json decode(const ppose::Bundle& bundle, const json& request) {
  json result = json::array();
  for (const ppose::Maps& maps : read_maps(request)) {
    json people = json::array();
    for (const ppose::DecodedPose& pose : bundle.codec->decode(maps)) {
      people.push_back({{"keypoints", listed(pose.keypoints)}, {"factor", pose.factor}});
    }
    result.push_back(std::move(people));
  }
  return result;
}

json flip_back(const ppose::Bundle& bundle, const json& request) {
  json result = json::array();
  for (const ppose::Maps& maps : read_maps(request)) {
    result.push_back(bundle.codec->flip_back(maps).values);
  }
  return result;
}

/// The transforms of an image's inputs; writes their pixels to a file.
json inputs(const ppose::Bundle& bundle, const json& request) {
  const cv::Mat image = ppose::read_image(request.at("image").get<std::string>());
  std::vector<ppose::Box> boxes;
  for (const json& box : request.at("boxes")) {
    boxes.push_back({box.at(0), box.at(1), box.at(2), box.at(3)});
  }
  std::ofstream pixels(request.at("pixels").get<std::string>(), std::ios::binary);
  json result = json::array();
  for (const ppose::Region& region :
       bundle.crop->regions({image.cols, image.rows}, boxes, bundle.size_multiple)) {
    for (const ppose::View& view : region) {
      const ppose::Affine& m = view.matrix;
      result.push_back({{"matrix", {{m.xx, m.xy, m.x0}, {m.yx, m.yy, m.y0}, {0, 0, 1}}},
                        {"size_wh", {view.size.width, view.size.height}},
                        {"content_wh", {view.content.width, view.content.height}}});
      const cv::Mat input = view(image);
      pixels.write(reinterpret_cast<const char*>(input.data), input.dataend - input.datastart);
    }
  }
  return result;
}

json postprocess(const ppose::Bundle& bundle, const json& request) {
  std::vector<ppose::Person> people;
  for (const json& person : request.at("people")) {
    people.push_back({{}, person.at("score"), keypoints_of(person.at("keypoints"))});
  }
  json result = json::array();
  for (const ppose::Person& person : (*bundle.postprocess)(people, request.at("areas"))) {
    result.push_back({{"score", person.score}, {"keypoints", listed(person.keypoints)}});
  }
  return result;
}

json respond(const json& request) {
  try {
    const ppose::Bundle bundle(request.at("bundle").get<std::string>());
    const std::string what = request.at("do");
    if (what == "decode") return decode(bundle, request);
    if (what == "flip_back") return flip_back(bundle, request);
    if (what == "inputs") return inputs(bundle, request);
    if (what == "postprocess") return postprocess(bundle, request);
    throw ppose::Error("unknown request '" + what + "'");
  } catch (const std::exception& error) {
    return {{"error", error.what()}};
  }
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    // Messages may contain arbitrary bytes of files.
    constexpr auto kReplace = json::error_handler_t::replace;
    std::cout << respond(json::parse(line)).dump(-1, ' ', true, kReplace) << std::endl;
  }
}
