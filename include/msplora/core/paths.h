#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace msplora {

/// What std::filesystem does, with our errors: its own ones end as messages without a hint of what was asked
/// for, and some overloads throw where others do not (scripts/check-layers.sh keeps them out of other files).

/// False also where the system does not say, of a name that is too long or a directory that may not be
/// entered: whoever opens the file then says why it cannot.
bool path_exists(const std::filesystem::path& path) noexcept;
bool directory_exists(const std::filesystem::path& path) noexcept;

/// What the directory holds, by name. Empty when it is not there or cannot be read.
std::vector<std::filesystem::path> entries_of(const std::filesystem::path& directory);

/// The path from the root, as it was given where the working directory is gone.
std::filesystem::path absolute_path(const std::filesystem::path& path);

/// The file of the program that runs. Throws Error{kIo} where the system does not tell.
std::filesystem::path path_of_program();

/// Bytes of a file. Throws Error{kIo} when it is not there.
uint64_t size_of_file(const std::filesystem::path& path);

/// With all that lead to it; one that is there stays. Throws Error{kIo}.
void make_directories(const std::filesystem::path& path);

/// A file, or a directory with all in it; nothing happens where there is none. Throws Error{kIo}.
void remove_path(const std::filesystem::path& path);

/// Replaces a file at `to`. Throws Error{kIo}.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);

/// Has a file, or the names in a directory, reach the disk. Throws Error{kIo} when the disk fails or is full;
/// what cannot be synced at all (a pipe, some network file systems) is left as it is.
void sync_path(const std::filesystem::path& path);

}  // namespace msplora
