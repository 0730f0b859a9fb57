// std::vector and std::allocator call this function of libstdc++ since GCC 11; older systems lack it. Ours stands in for
// it inside the addon. See cmake/oldest.h.
#include <new>

#if defined(__GLIBCXX__)
extern "C" __attribute__((visibility("hidden"))) void whittle_throw_bad_length() __asm__("_ZSt28__throw_bad_array_new_lengthv");
extern "C" void whittle_throw_bad_length() { throw std::bad_alloc(); }
#endif
