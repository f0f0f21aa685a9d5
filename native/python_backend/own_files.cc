#include "own_files.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "repairs.h"

namespace tritonode {
namespace {

struct Links {
  std::mutex mutex;
  std::string directory;
};

Links& links() {
  // Leaked on purpose: Triton's threads outlive static destructors.
  static auto& links = *new Links;
  return links;
}

}  // namespace

void SetTemporaryLinks(const std::string& privateDirectory) {
  const std::lock_guard<std::mutex> lock(links().mutex);
  links().directory = privateDirectory;
}

int OpenPrivate(const char* name, int flags, mode_t mode) {
  return shm_open(name, flags, IsActive(Repair::kPrivateMemory) ? mode & (S_IRUSR | S_IWUSR) : mode);
}

int ChangePrivateMode(int fd, mode_t mode) {
  return fchmod(fd, IsActive(Repair::kPrivateMemory) ? mode & S_IRWXU : mode);
}

char* MakeTemporary(char* pattern) {
  char* made = mkdtemp(pattern);
  const char* name = made == nullptr ? nullptr : std::strrchr(made, '/');
  if (name == nullptr || !IsActive(Repair::kTemporaryFolders)) return made;
  const std::lock_guard<std::mutex> lock(links().mutex);
  // Without the link the folder stays behind, as it does without this function.
  if (!links().directory.empty() && symlink(made, (links().directory + name).c_str()) != 0) errno = 0;
  return made;
}

FTS* WalkTree(char* const* paths, int options, int (*compare)(const FTSENT**, const FTSENT**)) {
  if (IsActive(Repair::kTemporaryFolders)) {
    for (char* const* path = paths; *path != nullptr; ++path) {
      if (access(*path, F_OK) != 0 && errno == ENOENT) mkdir(*path, S_IRWXU);
    }
  }
  return fts_open(paths, options, compare);
}

}  // namespace tritonode
