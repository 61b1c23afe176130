#pragma once
// What this binary was built from. Written by build_info.cmake at each build.

namespace farpool::build_info {

extern const char* const kVersion;
extern const char* const kCommit;  // With "-dirty" where files had changed; "unknown" outside a git tree.
extern const char* const kCompiler;
extern const char* const kBuildType;

}  // namespace farpool::build_info
