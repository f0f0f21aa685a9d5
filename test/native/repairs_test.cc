// The repairs of Triton, against libraries that import what its own import. Each case is a process of its own.
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <ctime>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "../../native/python_backend/child_waits.h"
#include "../../native/python_backend/dead_owner.h"
#include "../../native/python_backend/repairs.h"
#include "../../native/python_backend/shared_heap.h"
#include "check.h"

using namespace tritonode;

namespace {

std::string LibraryPath(const std::string& name) { return directoryOfLibraries + "/lib" + name + ".so"; }

void* Open(const std::string& name) {
  void* library = dlopen(LibraryPath(name).c_str(), RTLD_NOW | RTLD_LOCAL);
  CHECK(library != nullptr);
  return library;
}

ImportTable* Server() {
  static ImportTable* table = [] {
    auto* made = new ImportTable;
    CHECK(ImportTable::Read(Open("victim_core"), made).ok());
    return made;
  }();
  return table;
}

// The summary.
std::string Apply(const std::string& library, const std::string& version = "2.51.0", std::vector<std::string> off = {}) {
  std::string summary;
  CHECK(RepairTriton({LibraryPath(library), Server(), version, std::move(off), ""}, &summary).ok());
  return summary;
}

bool Has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// A process dies while it holds a robust mutex; the repaired library's next lock succeeds instead of failing.
void DeadOwner() {
  void* victim = Open("victim");
  const auto lock = reinterpret_cast<int (*)(pthread_mutex_t*)>(dlsym(victim, "VictimLock"));
  auto* mutex = static_cast<pthread_mutex_t*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  const auto die_with_it = [&] {
    pthread_mutex_init(mutex, &attributes);
    const pid_t pid = fork();
    if (pid == 0) {
      pthread_mutex_lock(mutex);
      kill(getpid(), SIGKILL);
    }
    waitpid(pid, nullptr, 0);
  };
  die_with_it();
  CHECK(lock(mutex) == EOWNERDEAD);
  pthread_mutex_consistent(mutex);
  pthread_mutex_unlock(mutex);

  CHECK(Apply("victim").find("dead-owner") != std::string::npos);
  die_with_it();
  CHECK(lock(mutex) == 0);
  CHECK(pthread_mutex_unlock(mutex) == 0 && lock(mutex) == 0);
  pthread_mutex_unlock(mutex);
  munmap(mutex, 4096);
}

// A wait for a child's message outlasts its deadline while the child lives, and ends soon when it is dead.
void WaitingForChild() {
  Apply("victim");
  sem_t semaphore;
  CHECK(InitSemaphore(&semaphore, 0, 1) == 0);
  const pid_t pid = ForkChild();
  if (pid == 0) {
    pause();
    _exit(0);
  }
  CHECK(WaitForChild(&semaphore) == 0);
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  std::thread late([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(700));
    sem_post(&semaphore);
  });
  CHECK(WaitForChildUntil(&semaphore, &now) == 0);
  late.join();

  std::thread killer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    kill(pid, SIGKILL);
  });
  const auto begin = std::chrono::steady_clock::now();
  CHECK(WaitForChildUntil(&semaphore, &now) == -1 && errno == ETIMEDOUT);
  CHECK(WaitForChild(&semaphore) == 0);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5));
  killer.join();
  waitpid(pid, nullptr, 0);
  // Another use of the same memory belongs to no child.
  CHECK(InitSemaphore(&semaphore, 0, 0) == 0);
  CHECK(WaitForChildUntil(&semaphore, &now) == -1 && errno == ETIMEDOUT);
  sem_destroy(&semaphore);
}

// Which repairs are applied is decided by the version, by what the library holds and imports, and by the switch.
void Choosing() {
  const std::string all = Apply("victim");
  CHECK(all == "repairs of Triton 2.51.0: dead-owner, lost-replies, dead-child, slow-child, "
               "idle-child, warm-child, private-memory, temporary-folders, busy-instance");
  const std::string later = Apply("victim", "2.60.0");
  CHECK(Has(later, ": dead-owner, private-memory, temporary-folders, busy-instance; without lost-replies (made for other versions"));
  CHECK(!IsActive(Repair::kDeadChild) && IsActive(Repair::kDeadOwner));
  CHECK(Has(Apply("victim", "2.70.0"), ": private-memory, temporary-folders, busy-instance;"));
  CHECK(Has(Apply("victim", "unknown"), ": private-memory, temporary-folders;"));
  // A library of 25.08 beside a server that says 24.10.
  const std::string mixed = Apply("victim_later");
  CHECK(Has(mixed, "without dead-child (the library is another version's)") && Has(mixed, ": dead-owner, private-memory"));
  // One that imports less, or the same function twice over, is not the one a repair was made for.
  CHECK(Has(Apply("victim_partial"), "without dead-child (the library imports sem_wait 0 times, not once)"));
  CHECK(Has(Apply("victim", "2.51.0", {"all"}), ": none;") && !IsActive(Repair::kPrivateMemory));
  const std::string some = Apply("victim", "2.51.0", {"dead-owner", "idle-child"});
  CHECK(Has(some, ": lost-replies, dead-child, slow-child, warm-child, private-memory, temporary-folders, busy-instance; "
                  "without dead-owner (switched off)"));
  std::string summary;
  Status status = RepairTriton({LibraryPath("victim"), Server(), "2.51.0", {"dead-owners"}, ""}, &summary);
  CHECK(status.code() == "OPTION" && Has(status.message(), "'dead-owners'") && Has(status.message(), "dead-owner,"));
  CHECK(RepairTriton({"/nowhere.so", Server(), "2.51.0", {}, ""}, &summary).code() == "LIBRARY");
}

// The library is linked with RELRO and immediate binding: its tables are read-only before, and must be so afterwards.
void Protection() {
  void* victim = Open("victim");
  const auto writable = [&] {
    const auto address = reinterpret_cast<uintptr_t>(dlsym(victim, "VictimLock"));
    std::ifstream maps("/proc/self/maps");
    std::vector<std::string> found;
    for (std::string line; std::getline(maps, line);) {
      if (Has(line, "libvictim.so")) found.push_back(line.substr(line.find(' ') + 1, 4));
    }
    CHECK(address != 0 && !found.empty());
    return found;
  };
  const std::vector<std::string> before = writable();
  Apply("victim");
  CHECK(writable() == before);
}

// A model is unloaded while the thread of its instance works: it is destroyed when that has put its instance back.
void BusyInstance() {
  void* core = Open("victim_core");
  const auto load = reinterpret_cast<void* (*)()>(dlsym(core, "VictimLoad"));
  const auto work = reinterpret_cast<void (*)(void*, int)>(dlsym(core, "VictimWork"));
  const auto unload = reinterpret_cast<void (*)(void*)>(dlsym(core, "VictimUnload"));
  const auto count = [&](const char* what) { return reinterpret_cast<int (*)()>(dlsym(core, what))(); };
  const auto unload_while_working = [&] {
    void* model = load();
    work(model, 300);
    CHECK(Eventually([&] { return count("VictimBusyNow") == 1; }));
    unload(model);
    const int before = count("VictimDestroyed");
    CHECK(Eventually([&] { return count("VictimDestroyed") == before + 1; }));
  };
  unload_while_working();
  CHECK(count("VictimEmptyLists") == 1);
  Apply("victim");
  CHECK(IsActive(Repair::kBusyInstance));
  unload_while_working();
  CHECK(count("VictimEmptyLists") == 1);
  // Another model's work is not waited for.
  void* other = load();
  work(other, 3000);
  CHECK(Eventually([&] { return count("VictimBusyNow") == 1; }));
  const auto begin = std::chrono::steady_clock::now();
  unload(load());
  CHECK(Eventually([&] { return count("VictimDestroyed") == 3; }));
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(2));
  unload(other);
  CHECK(Eventually([&] { return count("VictimDestroyed") == 4; }));
  CHECK(count("VictimEmptyLists") == 1);
}

struct Heap {
  std::vector<uint64_t> words = std::vector<uint64_t>(4096 / 8);
  static constexpr uint64_t kInUse = uint64_t{1} << 63;
  static constexpr uint64_t kPreviousInUse = uint64_t{1} << 62;
  static constexpr uint64_t kEnd = 0x80 + ((4096 - 0x80) / 16 - 1) * 16;

  uint64_t& At(uint64_t offset) { return words[offset / 8]; }
  void Block(uint64_t at, uint64_t units, bool inUse, bool previousInUse) {
    At(at + 8) = units | (inUse ? kInUse : 0) | (previousInUse ? kPreviousInUse : 0);
    if (inUse) return;
    At(at + units * 16) = units;
    At(at + units * 16 + 8) &= ~kPreviousInUse;
  }
  // In use: 0x80, 0x140, 0x1c0; free: 0x100 and the rest from 0x200 on.
  Heap() {
    At(0x20) = 0x40;
    At(0x30) = 4096;
    At(0x80) = (kEnd - 0x80) / 16;
    Block(0x80, 8, true, true);
    At(0x128 - 0x80) = 4096;
    std::memcpy(&At(0x128 - 0x80 + 8), "total size", 11);
    Block(kEnd, (kEnd - 0x80) / 16, true, false);
    Block(0x140, 8, true, false);
    Block(0x100, 4, false, true);
    Block(0x1c0, 4, true, true);
    Block(0x200, (kEnd - 0x200) / 16, false, true);
    // Whatever the tree's links were: the child died while it changed them.
    for (const uint64_t at : {0x00, 0x08, 0x10, 0x18, 0x110, 0x118, 0x120, 0x210, 0x218}) At(at) = 0xdeadbeef;
  }
  bool Seal(size_t bytes = 4096) { return SealSharedHeap(words.data(), bytes); }
  bool TreeIsEmpty() {
    return At(0) == 0 && At(8) == 1 && At(0x10) == uint64_t(-8) && At(0x18) == uint64_t(-16);
  }
  // Offsets of the blocks; each must count as in use.
  std::vector<uint64_t> Blocks() {
    std::vector<uint64_t> found;
    for (uint64_t at = 0x80; at < kEnd; at += (At(at + 8) & ~(kInUse | kPreviousInUse)) * 16) {
      CHECK((At(at + 8) & kInUse) != 0 && (At(at + 8) & kPreviousInUse) != 0);
      found.push_back(at);
    }
    CHECK((At(kEnd + 8) & kPreviousInUse) != 0);
    return found;
  }
};

// After a child's death inside the allocator nothing of the old tree is reached any more, whatever the death left behind.
void SealingHeap() {
  const std::vector<uint64_t> blocks = {0x80, 0x100, 0x140, 0x1c0, 0x200};
  Heap heap;
  CHECK(heap.Seal() && heap.TreeIsEmpty() && heap.Blocks() == blocks);
  // Again: it is a heap still.
  CHECK(heap.Seal() && heap.Blocks() == blocks);
  // Cut in two without a second head: the block behind it tells where it is.
  Heap cut;
  cut.Block(0x200, 4, false, true);
  cut.At(0x240) = cut.At(0x248) = 0;
  cut.Block(0x300, 8, true, false);
  cut.At(0x300) = 16;
  cut.Block(0x380, (Heap::kEnd - 0x380) / 16, false, true);
  CHECK(cut.Seal() && cut.TreeIsEmpty());
  CHECK(cut.Blocks() == (std::vector<uint64_t>{0x80, 0x100, 0x140, 0x1c0, 0x200, 0x300, 0x380}));
  // A growth that was not finished.
  Heap grown;
  grown.At(0x30) = 8192;
  grown.At(Heap::kEnd + 8) = 300;
  CHECK(grown.Seal() && grown.At(0x30) == 4096 && grown.Blocks() == blocks);
  // Something else, or only part of it: left alone.
  std::vector<uint64_t> noise(512, 0x5a5a5a5a5a5a5a5a);
  const std::vector<uint64_t> same = noise;
  CHECK(!SealSharedHeap(noise.data(), 4096) && noise == same);
  CHECK(!Heap().Seal(2048));
}

// The lock of a heap in /dev/shm whose owner died: the file's content is sealed, the part that is not mapped here too.
void DeadInAllocator() {
  Apply("victim");
  const std::string name = "/tritonode_test_" + std::to_string(getpid()) + "_heap";
  const int fd = shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
  CHECK(fd >= 0);
  Heap heap;
  // The lock lies in the first block, with its name behind it.
  const size_t at = 0xc0;
  std::memset(&heap.At(at), 0, 0x40);
  std::memcpy(reinterpret_cast<char*>(&heap.At(at)) + sizeof(pthread_mutex_t), "shm_mutex", 10);
  CHECK(write(fd, heap.words.data(), 4096) == 4096);
  auto* base = static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  auto* mutex = reinterpret_cast<pthread_mutex_t*>(base + at);
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(mutex, &attributes);
  const pid_t pid = fork();
  if (pid == 0) {
    pthread_mutex_lock(mutex);
    kill(getpid(), SIGKILL);
  }
  waitpid(pid, nullptr, 0);
  CHECK(Lock(mutex) == 0);
  std::memcpy(heap.words.data(), base, 4096);
  CHECK(heap.TreeIsEmpty() && heap.Blocks().size() == 5);
  CHECK(pthread_mutex_unlock(mutex) == 0);
  munmap(base, 4096);
  close(fd);
  shm_unlink(name.c_str());
}

const Cases cases = {
    {"choosing", Choosing},           {"protection", Protection},
    {"dead_owner", DeadOwner},        {"sealing_heap", SealingHeap},
    {"dead_in_allocator", DeadInAllocator}, {"waiting_for_child", WaitingForChild},
    {"busy_instance", BusyInstance},
};

}  // namespace

int main(int argc, char** argv) { return RunCase(argc, argv, cases); }
