#include "child_takeover.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "../common/descriptor.h"
#include "../common/quiet_write.h"
#include "../process/warm_children.h"
#include "repairs.h"

namespace tritonode {
namespace {

// In the forked process: where to send the command, and where the answer comes from.
int commandPipe = -1;
int answerPipe = -1;

// What the forked process may do is little: another thread may have held any lock when it was made.
void Send(const char* text, size_t size) {
  while (size > 0) {
    const ssize_t written = write(commandPipe, text, size);
    if (written < 0 && errno != EINTR) return;
    if (written <= 0) continue;
    text += written;
    size -= static_cast<size_t>(written);
  }
}

void SendLine(const char* text) { Send(text, std::strlen(text) + 1); }

// The backend makes " exec <stub> <argument> ..." of paths that hold no spaces (src/transport/workspace.ts).
std::vector<std::string> Words(const std::string& script) {
  std::istringstream stream(script);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  if (words.empty() || words.front() != "exec") return {};
  words.erase(words.begin());
  return words;
}

// The strings that the forked process sends until it waits for the answer: the script, the directory, the environment and
// an empty one. False if it ended or took too long: it then executes its command.
bool Receive(int from, std::vector<std::string>* strings) {
  constexpr int kPatience = 10'000;
  std::string text;
  std::array<char, 65536> buffer;
  const std::string_view end("\0\0", 2);
  while (!text.ends_with(end)) {
    pollfd readable{from, POLLIN, 0};
    if (poll(&readable, 1, kPatience) <= 0) return false;
    const ssize_t size = read(from, buffer.data(), buffer.size());
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return false;
    text.append(buffer.data(), static_cast<size_t>(size));
  }
  text.pop_back();
  for (size_t at = 0; at < text.size();) {
    strings->emplace_back(text.c_str() + at);
    at += strings->back().size() + 1;
  }
  return strings->size() >= 2;
}

}  // namespace

pid_t ForkOrTake() {
  if (!IsActive(Repair::kWarmChild) || !WarmChildren::Get().HasAny()) return fork();
  std::array<int, 2> command;
  std::array<int, 2> answer;
  if (pipe2(command.data(), O_CLOEXEC) != 0) return fork();
  Descriptor readsCommand(command[0]);
  Descriptor writesCommand(command[1]);
  if (pipe2(answer.data(), O_CLOEXEC) != 0) return fork();
  Descriptor readsAnswer(answer[0]);
  Descriptor writesAnswer(answer[1]);
  const pid_t child = fork();
  if (child == 0) {
    // They close when the command is executed.
    commandPipe = writesCommand.Release();
    answerPipe = readsAnswer.Release();
    return 0;
  }
  if (child < 0) return child;
  writesCommand.Close();
  readsAnswer.Close();
  std::vector<std::string> strings;
  pid_t taken = 0;
  if (Receive(readsCommand.get(), &strings)) {
    ChildCommand wanted;
    wanted.arguments = Words(strings[0]);
    wanted.directory = strings[1];
    wanted.environment.assign(strings.begin() + 2, strings.end());
    std::sort(wanted.environment.begin(), wanted.environment.end());
    taken = WarmChildren::Get().Take(wanted);
  }
  // Anything else, the end of the pipe too, means that it executes its command.
  WriteQuietly(writesAnswer.get(), taken == 0 ? "n" : "y");
  if (taken == 0) return child;
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  return taken;
}

int ExecuteOrGive(const char* file, char* const arguments[]) {
  if (commandPipe >= 0 && arguments[0] != nullptr && arguments[1] != nullptr && arguments[2] != nullptr) {
    static std::array<char, 4096> directory;
    SendLine(arguments[2]);
    SendLine(getcwd(directory.data(), directory.size()) == nullptr ? "/" : directory.data());
    for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) SendLine(*variable);
    Send("", 1);
    char word = 'n';
    while (read(answerPipe, &word, 1) < 0 && errno == EINTR) {
    }
    if (word == 'y') _exit(0);
  }
  return execvp(file, arguments);
}

}  // namespace tritonode
