#pragma once
// Sizes as people write and read them: "512M", "1.5G" in; "12.0 GiB", "64 MiB" out. Powers of 1024
// throughout. Allocates and throws nothing but std::string's own: for tools, not for the preloaded runtime.

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <string_view>

#include "farpool/status.h"

namespace farpool {

// `text`: digits, at most nine decimals, then nothing (bytes) or K, M, G, T, each also as KB or KiB, in any
// case. Anything else, a sign and more than 2^64-1 bytes included, is kInvalidArgument with a line that names
// the text. A fraction of a byte is dropped.
inline Result<uint64_t> ParseSize(std::string_view text) {
  const std::string shown(text.substr(0, 40));
  const auto refuse = [&shown](const char* why) {
    return Status::InvalidArgument(("'" + shown + "' is " + why).c_str());
  };
  constexpr const char* kNotASize = "not a size; write bytes or a number with K, M, G or T, such as 512M";
  uint64_t whole = 0;
  const char* const end = text.data() + text.size();
  auto [at, error] = std::from_chars(text.data(), end, whole);
  if (error == std::errc::result_out_of_range) return refuse("more than 2^64 bytes");
  if (error != std::errc()) return refuse(kNotASize);  // Empty, a sign, or junk in front.

  uint64_t fraction = 0, divisor = 1;
  if (at != end && *at == '.') {
    const char* const first = ++at;
    while (at != end && *at >= '0' && *at <= '9' && at - first < 9) {
      fraction = fraction * 10 + static_cast<uint64_t>(*at++ - '0');
      divisor *= 10;
    }
    if (at == first) return refuse(kNotASize);
  }

  std::string suffix(at, end);
  for (char& c : suffix) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  unsigned shift = 0;
  if (!suffix.empty() && suffix != "B") {
    const size_t unit = std::string_view("KMGT").find(suffix[0]);
    if (unit == std::string_view::npos) return refuse(kNotASize);
    const std::string_view rest = std::string_view(suffix).substr(1);
    if (!rest.empty() && rest != "B" && rest != "IB") return refuse(kNotASize);
    shift = 10 * (static_cast<unsigned>(unit) + 1);
  }
  if (whole > std::numeric_limits<uint64_t>::max() >> shift) return refuse("more than 2^64 bytes");
  // The fraction is below 10^9 and the unit at most 2^40, so the product needs more than 64 bits.
  __extension__ using Wide = unsigned __int128;
  return (whole << shift) + static_cast<uint64_t>((static_cast<Wide>(fraction) << shift) / divisor);
}

// "64 MiB" where the unit divides the value, else one decimal: "12.3 GiB", "1.0 KiB" is written "1 KiB".
inline std::string FormatSize(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  unsigned unit = 0;
  // A value that would round to 1024.0 belongs to the next unit.
  while (unit < 4 && static_cast<double>(bytes) / static_cast<double>(1ull << (10 * unit)) >= 1023.95) ++unit;
  const uint64_t one = 1ull << (10 * unit);
  char out[40];
  if (bytes % one == 0) {
    std::snprintf(out, sizeof(out), "%llu %s", static_cast<unsigned long long>(bytes / one), kUnits[unit]);
  } else {
    std::snprintf(out, sizeof(out), "%.1f %s", static_cast<double>(bytes) / static_cast<double>(one),
                  kUnits[unit]);
  }
  return out;
}

}  // namespace farpool
