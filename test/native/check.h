// As much of a test framework as these tests need: CHECK says what failed and where, and the program's exit code counts.
#pragma once

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <thread>

#define CHECK(condition)                                                                  \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      std::fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition);  \
      std::exit(1);                                                                       \
    }                                                                                     \
  } while (false)

inline bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 2000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

using Cases = std::map<std::string, void (*)()>;

/// Where the libraries are that a case loads.
inline std::string directoryOfLibraries;

/// Runs one case. The arguments are the folder of the libraries and the name of the case. Returns the exit code.
inline int RunCase(int argc, char** argv, const Cases& cases) {
  CHECK(argc == 3);
  directoryOfLibraries = argv[1];
  const auto found = cases.find(argv[2]);
  CHECK(found != cases.end());
  found->second();
  return 0;
}
