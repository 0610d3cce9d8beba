// Estimates the poses in images with a bundle and prints them as JSON.

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <exception>
#include <iostream>
#include <map>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "ppose/boxes.hpp"
#include "ppose/error.hpp"
#include "ppose/estimator.hpp"
#include "ppose/image.hpp"
#include "ppose/report.hpp"

namespace {

constexpr const char* kUsage = R"(usage: ppose_infer --model_dir FOLDER --image_file FILE [FILE ...]
       [--bbox_file FILE] [--min_box_score SCORE] [--threads N] [--version]

  --model_dir      a bundle: pose.yml and model.onnx
  --image_file     images
  --bbox_file      boxes of people, JSON: [{"file_name": "photo.jpg", "bbox": [x, y, width, height],
                   "score": 0.9}, ...]; without it a top-down network uses each whole image as a box
  --min_box_score  omit boxes with lower scores; default 0.3
  --threads        CPU threads; default: all cores
)";

struct Arguments {
  std::string model_dir;
  std::vector<std::string> image_files;
  std::optional<std::string> bbox_file;
  double min_box_score = 0.3;
  int threads = 0;
};

/// Invalid command line.
class UsageError : public ppose::Error {
 public:
  using ppose::Error::Error;
};

/// Parses a number in least..most.
template <typename Number>
Number number(const std::string& option, const std::string& text, Number least, Number most) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || !(least <= value && value <= most)) {
    throw UsageError(option + ": expected a number in " + std::to_string(least) + ".." +
                     std::to_string(most) + ", found '" + text + "'");
  }
  return value;
}

/// Values of each option, from "--option value ..." and "--option=value".
std::map<std::string, std::vector<std::string>> options(const std::vector<std::string>& words) {
  std::map<std::string, std::vector<std::string>> found;
  std::string option;
  for (const std::string& word : words) {
    if (word.compare(0, 2, "--") != 0) {
      if (option.empty()) throw UsageError("unexpected '" + word + "'");
      found[option].push_back(word);
      continue;
    }
    const std::size_t equals = word.find('=');
    option = word.substr(0, equals);
    found[option];
    if (equals != std::string::npos) found[option].push_back(word.substr(equals + 1));
  }
  return found;
}

Arguments parsed(const std::vector<std::string>& words) {
  Arguments arguments;
  for (const auto& [option, values] : options(words)) {
    const bool several = option == "--image_file";
    if (values.empty() || (values.size() > 1 && !several)) {
      throw UsageError(option + (several ? " needs values" : " needs one value"));
    }
    const std::string& value = values.front();
    if (option == "--model_dir") {
      arguments.model_dir = value;
    } else if (option == "--image_file") {
      arguments.image_files = values;
    } else if (option == "--bbox_file") {
      arguments.bbox_file = value;
    } else if (option == "--min_box_score") {
      arguments.min_box_score = number(option, value, 0.0, 1.0);
    } else if (option == "--threads") {
      arguments.threads = number(option, value, 1, 1024);
    } else {
      throw UsageError("unknown option " + option);
    }
  }
  if (arguments.model_dir.empty()) throw UsageError("--model_dir is missing");
  if (arguments.image_files.empty()) throw UsageError("--image_file is missing");
  return arguments;
}

/// While it lives, nothing is written to stderr: what libraries say about a damaged image.
class Quiet {
 public:
  Quiet() : stderr_(dup(STDERR_FILENO)) {
    const int nothing = open("/dev/null", O_WRONLY);
    if (nothing < 0) return;
    dup2(nothing, STDERR_FILENO);
    close(nothing);
  }
  ~Quiet() {
    if (stderr_ < 0) return;
    dup2(stderr_, STDERR_FILENO);
    close(stderr_);
  }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;

 private:
  int stderr_;
};

cv::Mat read_quietly(const std::string& file) {
  const Quiet quiet;
  return ppose::read_image(file);
}

void infer(const Arguments& arguments) {
  std::optional<ppose::BoxFile> boxes;
  if (arguments.bbox_file) {
    boxes.emplace(*arguments.bbox_file, arguments.min_box_score);
    if (boxes->invalid() > 0) {
      std::cerr << boxes->name() << ": " << boxes->invalid() << " boxes are invalid\n";
    }
  }
  ppose::Estimator estimator(ppose::Bundle(arguments.model_dir), arguments.threads);
  ppose::Report report(estimator.bundle().codec->skeleton());
  bool any = false;
  for (const std::string& file : arguments.image_files) {
    cv::Mat image;
    try {
      image = read_quietly(file);
    } catch (const ppose::Error& error) {
      std::cerr << "left out: " << ppose::one_line(error.what()) << "\n";
      continue;
    }
    std::optional<ppose::GivenBoxes> given;
    if (boxes) given = {boxes->of(file), boxes->name()};
    report.add(file, estimator(image, given));
    any = true;
  }
  if (!any) throw ppose::Error("no image could be read");
  std::cout << report.json() << std::endl;
  if (!std::cout) throw ppose::Error("cannot write the result");
}

}  // namespace

int main(int count, char** words) {
  try {
    const std::vector<std::string> given(words + 1, words + count);
    if (given.empty() || given.front() == "--help" || given.front() == "-h") {
      (given.empty() ? std::cerr : std::cout) << kUsage;
      return given.empty() ? 2 : 0;
    }
    if (given.front() == "--version") {
      std::cout << ppose::runtime_version() << "\n";
      return 0;
    }
    infer(parsed(given));
    return 0;
  } catch (const UsageError& error) {
    std::cerr << "error: " << ppose::one_line(error.what()) << "\n" << kUsage;
    return 2;
  } catch (const std::bad_alloc&) {
    std::cerr << "error: out of memory\n";
  } catch (const std::exception& error) {
    std::cerr << "error: " << ppose::one_line(error.what()) << "\n";
  }
  return 1;
}
