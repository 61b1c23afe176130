#include "registry/pool_spec.h"

#include <arpa/inet.h>
#include <sys/un.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/read_file.h"

namespace farpool {

namespace {

constexpr std::string_view kBlank = " \t\r\n";

std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

// `entry` is cut, because a message holds less than 200 bytes and its end, the way out, must not be lost.
// Control characters would tear the line apart.
Status Refuse(std::string_view entry, const std::string& why) {
  constexpr size_t kShownMax = 60;
  std::string shown(entry.substr(0, kShownMax));
  if (entry.size() > kShownMax) shown += "...";
  for (char& c : shown)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return Status::InvalidArgument(("'" + shown + "' " + why).c_str());
}

struct SchemeName {
  PoolEntry::Scheme scheme;
  std::string_view prefix;
};
constexpr SchemeName kSchemes[] = {
    {PoolEntry::Scheme::kTcp, "tcp://"},   {PoolEntry::Scheme::kRdma, "rdma://"},
    {PoolEntry::Scheme::kUnix, "unix://"}, {PoolEntry::Scheme::kRegistry, "registry://"},
    {PoolEntry::Scheme::kEtcd, "etcd://"},
};

bool IsHostName(std::string_view host) {
  return !host.empty() && host.size() <= 253 && host.front() != '-' &&
         std::all_of(host.begin(), host.end(), [](unsigned char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
                  c == '-' || c == '_';
         });
}

bool IsIpv6(std::string_view text) {
  const std::string address(text.substr(0, text.find('%')));  // A zone is the kernel's to judge.
  in6_addr parsed;
  return inet_pton(AF_INET6, address.c_str(), &parsed) == 1;
}

Status ParseHostAndPort(std::string_view entry, std::string_view rest, bool listening, PoolEntry* out) {
  std::string_view host, port;
  bool has_port = false;
  if (!rest.empty() && rest.front() == '[') {
    const size_t close = rest.find(']');
    if (close == std::string_view::npos) return Refuse(entry, "lacks the ']' after its IPv6 address");
    host = rest.substr(1, close - 1);
    if (!IsIpv6(host)) return Refuse(entry, "has no IPv6 address in its brackets; write tcp://[::1]:7171");
    const std::string_view after = rest.substr(close + 1);
    if (!after.empty() && after.front() != ':')
      return Refuse(entry, "has something after ']'; only :PORT may follow");
    has_port = !after.empty();
    if (has_port) port = after.substr(1);
  } else {
    if (std::count(rest.begin(), rest.end(), ':') > 1)
      return Refuse(entry, "has several colons; put an IPv6 address in brackets, as in tcp://[::1]:7171");
    const size_t colon = rest.find(':');
    host = rest.substr(0, colon);
    has_port = colon != std::string_view::npos;
    if (has_port) port = rest.substr(colon + 1);
    if (host.empty()) return Refuse(entry, "names no host; write tcp://HOST:PORT");
    if (!IsHostName(host)) return Refuse(entry, "has no host name or address between :// and the port");
  }
  out->host = std::string(host);
  std::transform(out->host.begin(), out->host.end(), out->host.begin(),
                 [](unsigned char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  out->port = kDefaultPort;
  if (!has_port) return Status::Ok();
  const char* const end = port.data() + port.size();
  const auto [at, error] = std::from_chars(port.data(), end, out->port);
  if (error != std::errc() || at != end || (out->port == 0 && !listening))
    return Refuse(entry, listening ? "has a bad port; it is a number from 0 (any free one) to 65535"
                                   : "has a bad port; it is a number from 1 to 65535");
  return Status::Ok();
}

Status Append(std::string_view text, std::vector<PoolEntry>* out) {
  Result<PoolEntry> entry = ParsePoolEntry(text);
  if (!entry.ok()) return entry.status();
  if (out->size() >= kMaxPoolEntries) return Status::InvalidArgument("more than 1024 entries; list fewer");
  const std::string name = entry.value().ToString();
  for (const PoolEntry& other : *out)
    if (other.ToString() == name) return Refuse(text, "is listed twice; remove one");
  out->push_back(std::move(entry).value());
  return Status::Ok();
}

Status AppendFile(std::string_view token, std::vector<PoolEntry>* out) {
  const std::string path(token.substr(strlen("file:")));
  if (path.empty()) return Refuse(token, "names no file; write file:PATH");
  const Result<std::string> text = ReadSmallFile(path);
  if (!text.ok()) return Refuse(token, text.status().text());
  const size_t before = out->size();
  std::string_view rest = text.value();
  for (unsigned line = 1; !rest.empty(); ++line) {
    const size_t newline = rest.find('\n');
    std::string_view entry = rest.substr(0, newline);
    rest = newline == std::string_view::npos ? std::string_view() : rest.substr(newline + 1);
    entry = Trim(entry.substr(0, entry.find('#')));
    if (entry.empty()) continue;
    const Status status = entry.starts_with("file:")
                              ? Refuse(entry, "stands inside a pool file; name it in --pool instead")
                              : Append(entry, out);
    if (!status.ok()) {
      // The last part of a long path tells more than the first.
      const std::string tail = path.size() > 50 ? "..." + path.substr(path.size() - 47) : path;
      return Status::InvalidArgument((tail + ":" + std::to_string(line) + ": " + status.text()).c_str());
    }
  }
  if (out->size() == before) return Refuse(token, "lists no donor; write one entry a line");
  return Status::Ok();
}

}  // namespace

std::string PoolEntry::ToString() const {
  for (const SchemeName& name : kSchemes) {
    if (name.scheme != scheme) continue;
    const std::string prefix(name.prefix);
    if (scheme == Scheme::kUnix) return prefix + path;
    const bool brackets = host.find(':') != std::string::npos;
    return prefix + (brackets ? "[" + host + "]" : host) + ":" + std::to_string(port);
  }
  return {};
}

Result<PoolEntry> ParsePoolEntry(std::string_view text, bool listening) {
  const std::string_view entry = Trim(text);
  for (const SchemeName& name : kSchemes) {
    if (!entry.starts_with(name.prefix)) continue;
    PoolEntry out;
    out.scheme = name.scheme;
    const std::string_view rest = entry.substr(name.prefix.size());
    if (name.scheme == PoolEntry::Scheme::kUnix) {
      if (rest.empty()) return Refuse(entry, "names no socket; write unix:///run/farpool.sock");
      if (rest.size() >= sizeof(sockaddr_un::sun_path))
        return Refuse(entry, "is too long; a socket path has at most 107 bytes");
      out.path = std::string(rest);
      return out;
    }
    const Status status = ParseHostAndPort(entry, rest, listening, &out);
    if (!status.ok()) return status;
    return out;
  }
  if (entry.empty()) return Status::InvalidArgument("empty entry; write tcp://HOST:PORT or unix://PATH");
  if (entry.find("://") == std::string_view::npos)
    return Refuse(entry, "has no scheme; write tcp://HOST:PORT or unix://PATH");
  return Refuse(entry, "has an unknown scheme; use tcp, rdma or unix, or file:PATH");
}

Result<std::vector<PoolEntry>> ParsePoolSpec(std::string_view spec) {
  std::vector<PoolEntry> out;
  if (Trim(spec).empty()) return Status::InvalidArgument("empty pool; write tcp://HOST:PORT or unix://PATH");
  for (;;) {
    const size_t comma = spec.find(',');
    const std::string_view token = Trim(spec.substr(0, comma));
    const Status status = token.starts_with("file:") ? AppendFile(token, &out) : Append(token, &out);
    if (!status.ok()) return status;
    if (comma == std::string_view::npos) return out;
    spec.remove_prefix(comma + 1);
  }
}

}  // namespace farpool
