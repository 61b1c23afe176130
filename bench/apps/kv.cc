// kv redis|memcached [Ki keys [bytes per value [Ki requests]]]: starts that server on a Unix socket in a
// folder of its own, stores keys with random words, asks for them with the frequencies of YCSB's workload B
// (95 % reads, Zipf 0.99), 32 requests at a time, and verifies each byte. Exits 127 where the server is not
// installed.

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cmath>
#include <csignal>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"

namespace {

constexpr size_t kPipelined = 32;
constexpr int kStartSecondsMax = 60;

std::string socket_path;
pid_t server = -1;

void RemoveFolder() {
  unlink(socket_path.c_str());
  rmdir(socket_path.substr(0, socket_path.rfind('/')).c_str());
}

bool Installed(const char* program) {
  const char* const folders = getenv("PATH");
  for (const char* at = folders; at != nullptr && *at != 0;) {
    const size_t bytes = strcspn(at, ":");
    if (access((std::string(at, bytes) + "/" + program).c_str(), X_OK) == 0) return true;
    at += bytes + (at[bytes] != 0);
  }
  return false;
}

void StartServer(const std::vector<std::string>& command) {
  std::vector<char*> words;
  words.reserve(command.size() + 1);
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  const pid_t parent = getpid();
  server = fork();
  CHECK(server >= 0, "fork");
  if (server > 0) return;
  // It must not outlive this program, however that ends.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  const int none = open("/dev/null", O_RDWR);
  dup2(none, STDIN_FILENO);
  dup2(none, STDOUT_FILENO);
  execvp(words[0], words.data());
  _exit(127);
}

int Connect() {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  CHECK(socket_path.size() < sizeof(address.sun_path), "%s is too long", socket_path.c_str());
  memcpy(address.sun_path, socket_path.c_str(), socket_path.size());
  for (int tries = 0; tries < kStartSecondsMax * 100; ++tries) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) return fd;
    close(fd);
    CHECK(waitpid(server, nullptr, WNOHANG) == 0, "the server ended at once");
    usleep(10'000);
  }
  CHECK(false, "the server does not answer");
  return -1;
}

class Connection {
 public:
  explicit Connection(int fd) : fd_(fd) {}
  void Put(const char* data, size_t bytes) { out_.append(data, bytes); }
  void Put(const std::string& text) { out_ += text; }
  void Flush() {
    for (size_t at = 0; at < out_.size();) {
      const ssize_t n = send(fd_, out_.data() + at, out_.size() - at, MSG_NOSIGNAL);
      CHECK(n > 0 || errno == EINTR, "the server went away");
      if (n > 0) at += static_cast<size_t>(n);
    }
    out_.clear();
  }
  // The next `bytes` of what arrives; good until the next call.
  const char* Take(size_t bytes) {
    if (from_ + bytes > until_) {
      memmove(in_.data(), in_.data() + from_, until_ - from_);
      until_ -= from_;
      from_ = 0;
      if (in_.size() < bytes) in_.resize(bytes);
    }
    while (from_ + bytes > until_) {
      const ssize_t n = recv(fd_, in_.data() + until_, in_.size() - until_, 0);
      CHECK(n > 0 || (n < 0 && errno == EINTR), "the server went away");
      if (n > 0) until_ += static_cast<size_t>(n);
    }
    from_ += bytes;
    return in_.data() + from_ - bytes;
  }
  void Expect(const std::string& text) {
    const char* const got = Take(text.size());
    CHECK(memcmp(got, text.data(), text.size()) == 0, "the server says %.*s", static_cast<int>(text.size()),
          got);
  }

 private:
  int fd_;
  std::string out_;
  std::vector<char> in_ = std::vector<char>(256 << 10);
  size_t from_ = 0, until_ = 0;
};

// The two protocols. A Get is answered by Head(), the value, and the same end of line for both.
struct Protocol {
  bool redis;
  size_t value_bytes;

  std::string Key(uint64_t key) const {
    char text[20];
    snprintf(text, sizeof(text), "key:%012" PRIu64, key);
    return text;
  }
  std::string Set(uint64_t key) const {
    const std::string size = std::to_string(value_bytes);
    return redis ? "*3\r\n$3\r\nSET\r\n$16\r\n" + Key(key) + "\r\n$" + size + "\r\n"
                 : "set " + Key(key) + " 0 0 " + size + "\r\n";
  }
  std::string Stored() const { return redis ? "+OK\r\n" : "STORED\r\n"; }
  std::string Get(uint64_t key) const {
    return redis ? "*2\r\n$3\r\nGET\r\n$16\r\n" + Key(key) + "\r\n" : "get " + Key(key) + "\r\n";
  }
  std::string Head(uint64_t key) const {
    const std::string size = std::to_string(value_bytes);
    return redis ? "$" + size + "\r\n" : "VALUE " + Key(key) + " 0 " + size + "\r\n";
  }
  std::string Tail() const { return redis ? "\r\n" : "\r\nEND\r\n"; }
};

// Ranks 0..n-1 with Zipf's law (J. Gray et al., "Quickly Generating Billion-Record Synthetic Databases",
// 1994).
class Zipf {
 public:
  explicit Zipf(uint64_t n) : n_(static_cast<double>(n)) {
    for (uint64_t i = 1; i <= n; ++i) zeta_ += std::pow(static_cast<double>(i), -kTheta);
    eta_ = (1 - std::pow(2 / n_, 1 - kTheta)) / (1 - (1 + std::pow(0.5, kTheta)) / zeta_);
  }
  uint64_t Next(Random* random) const {
    const double u = static_cast<double>(random->Next() >> 11) * 0x1p-53;
    if (u * zeta_ < 1) return 0;
    if (u * zeta_ < 1 + std::pow(0.5, kTheta)) return 1;
    const double rank = n_ * std::pow(eta_ * u - eta_ + 1, 1 / (1 - kTheta));
    return std::min(static_cast<uint64_t>(rank), static_cast<uint64_t>(n_) - 1);
  }

 private:
  static constexpr double kTheta = 0.99;
  double n_;
  double zeta_ = 0;
  double eta_ = 0;
};

struct Request {
  uint64_t key;
  uint32_t version;
  bool write;
};

class Client {
 public:
  Client(Connection* connection, Protocol protocol, uint64_t keys)
      : connection_(connection), protocol_(protocol), versions_(keys), value_(protocol.value_bytes) {}

  void Send(uint64_t key, bool write) {
    if (write) {
      Fill(key, ++versions_[key]);
      connection_->Put(protocol_.Set(key));
      connection_->Put(value_.data(), value_.size());
      connection_->Put("\r\n", 2);
    } else {
      connection_->Put(protocol_.Get(key));
    }
    under_way_.push_back({key, versions_[key], write});
    if (under_way_.size() == kPipelined) Collect();
  }
  void Collect() {
    connection_->Flush();
    for (const Request& request : under_way_) {
      if (request.write) {
        connection_->Expect(protocol_.Stored());
        continue;
      }
      connection_->Expect(protocol_.Head(request.key));
      Fill(request.key, request.version);
      const char* const got = connection_->Take(value_.size());
      CHECK(memcmp(got, value_.data(), value_.size()) == 0, "key %" PRIu64 " has another value", request.key);
      connection_->Expect(protocol_.Tail());
      uint64_t word;
      memcpy(&word, got, sizeof(word));
      digest_ = digest_ * 31 + word;
    }
    under_way_.clear();
  }
  uint64_t digest() const { return digest_; }

 private:
  void Fill(uint64_t key, uint32_t version) {
    for (size_t at = 0; at < value_.size(); at += sizeof(uint64_t)) {
      const uint64_t word = Mix(key << 32 ^ uint64_t{version} << 20 ^ at);
      memcpy(&value_[at], &word, std::min(sizeof(word), value_.size() - at));
    }
  }

  Connection* connection_;
  Protocol protocol_;
  std::vector<uint32_t> versions_;
  std::vector<char> value_;
  std::vector<Request> under_way_;
  uint64_t digest_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  CHECK(name == "redis" || name == "memcached", "usage: kv redis|memcached [Ki keys [bytes [Ki requests]]]");
  const uint64_t keys = Argument(argc, argv, 2, 64) << 10;
  const Protocol protocol = {name == "redis", Argument(argc, argv, 3, 1000)};
  const uint64_t requests = Argument(argc, argv, 4, 64) << 10;
  CHECK(protocol.value_bytes >= sizeof(uint64_t), "values of at least 8 bytes");
  const char* const program = protocol.redis ? "redis-server" : "memcached";
  if (!Installed(program)) {
    fprintf(stderr, "kv: %s is not installed\n", program);
    return 127;
  }
  const char* const base = getenv("TMPDIR");
  socket_path = std::string(base != nullptr && *base != 0 ? base : "/tmp") + "/farpool-kv.XXXXXX";
  CHECK(mkdtemp(socket_path.data()) != nullptr, "%s", socket_path.c_str());
  const std::string folder = socket_path;
  socket_path += "/s";
  atexit(RemoveFolder);
  if (protocol.redis) {
    StartServer({"redis-server", "--port", "0", "--unixsocket", socket_path, "--save", "", "--dir", folder});
  } else {
    // Room for all, in its size classes too: nothing must be evicted by the server itself.
    const uint64_t megabytes = (keys * (protocol.value_bytes + 100) * 3 / 2 >> 20) + 64;
    std::vector<std::string> command = {"memcached", "-s", socket_path, "-m", std::to_string(megabytes),
                                        "-t",        "2"};
    if (geteuid() == 0) command.insert(command.end(), {"-u", "root"});
    StartServer(command);
  }
  Connection connection(Connect());
  Client client(&connection, protocol, keys);
  for (uint64_t key = 0; key < keys; ++key) client.Send(key, true);
  client.Collect();
  const Zipf zipf(keys);
  Random random(1);
  for (uint64_t i = 0; i < requests; ++i) {
    // What is asked for most is not what was stored first.
    const uint64_t key = Mix(zipf.Next(&random)) % keys;
    client.Send(key, random.Below(20) == 0);
  }
  client.Collect();
  kill(server, SIGTERM);
  int status = 0;
  CHECK(waitpid(server, &status, 0) == server && WIFEXITED(status) && WEXITSTATUS(status) == 0,
        "the server ended with status %d", status);
  printf("kv: %s stored %" PRIu64 " keys and answered %" PRIu64 " requests, digest %016" PRIx64 "\n",
         name.c_str(), keys, requests, client.digest());
  return 0;
}
