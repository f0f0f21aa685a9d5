#include "leftovers.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <vector>

#include "../common/descriptor.h"

namespace tritonode {
namespace {

namespace fs = std::filesystem;

// The names in a folder that `wanted` takes; none where it can't be read.
template <typename Wanted>
std::vector<std::string> Names(const fs::path& folder, Wanted wanted, std::error_code* error) {
  std::vector<std::string> names;
  fs::directory_iterator at(folder, *error);
  for (const fs::directory_iterator end; !*error && at != end; at.increment(*error)) {
    std::string name = at->path().filename().string();
    if (wanted(name)) names.push_back(std::move(name));
  }
  return names;
}

std::string ReadAll(const std::string& path) {
  std::string text;
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 8192> buffer;
  for (ssize_t size; file.get() >= 0 && (size = read(file.get(), buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<size_t>(size));
  }
  return text;
}

// How many processes were found. A stub that leads its own process group takes its group with it.
size_t KillProcesses(const std::string& setting, std::error_code* error) {
  const auto isNumber = [](const std::string& name) {
    return std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
  };
  size_t found = 0;
  for (const std::string& name : Names("/proc", isNumber, error)) {
    pid_t pid = 0;
    std::from_chars(name.data(), name.data() + name.size(), pid);
    if (pid <= 1 || pid == getpid()) continue;
    if (ReadAll("/proc/" + name + "/environ").find(setting) == std::string::npos) continue;
    found++;
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
  }
  return found;
}

// Triton leaves its folder of python_env_* where a child of it was killed. What a link leads to is removed only if it has
// that name and is this user's.
void RemoveLinked(const fs::path& link, const std::string& name, std::error_code* error) {
  std::error_code noLink;
  const fs::path made = fs::read_symlink(link, noLink);
  struct stat status {};
  if (noLink || made.filename() != name || lstat(made.c_str(), &status) != 0) return;
  if (S_ISDIR(status.st_mode) && status.st_uid == geteuid()) fs::remove_all(made, *error);
}

}  // namespace

bool RemoveLeftovers(const std::string& privateDirectory, const std::string& shmPrefix) {
  std::error_code error;
  const std::string setting = "TRITONODE_PRIVATE_DIR=" + privateDirectory;
  // Twice, because a child may have forked meanwhile.
  if (KillProcesses(setting, &error) > 0) KillProcesses(setting, &error);
  const auto starts = [](std::string_view text) { return [text](const std::string& name) { return name.starts_with(text); }; };
  const fs::path directory = privateDirectory;
  for (const std::string& name : Names(directory, starts("python_env_"), &error)) {
    RemoveLinked(directory / name, name, &error);
  }
  // Semaphores have names of their own there (sem_overview(7)).
  for (const std::string& prefix : {shmPrefix, "sem." + shmPrefix}) {
    for (const std::string& name : Names("/dev/shm", starts(prefix), &error)) unlink(("/dev/shm/" + name).c_str());
  }
  if (!error) fs::remove_all(directory, error);
  return !error;
}

}  // namespace tritonode
