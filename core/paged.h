// Large temporary memory that lies in a file: the system keeps its bytes there when a process gives the pages back, and brings them
// again when they are touched.
#pragma once
#include <stddef.h>

namespace whittle {

// `bytes` of zeros over the start of an open file, which grows to hold them: all of its room is taken now, so that a full disk
// is an answer and no signal later. The descriptor may be closed afterwards. Null where there is no room, or no such thing here.
void* paged_map(int fd, size_t bytes);

// Of what paged_map gave.
void paged_unmap(void* data);

// No page of any such memory counts to the process until it is touched again; contents stay. Any thread may go on using it.
void paged_release();

// What was freed goes back to the system, where an allocator would keep it for later: after large blocks glibc takes those of up to
// 32 MB from a heap whose free pages stay with the process.
void paged_trim();

}  // namespace whittle
