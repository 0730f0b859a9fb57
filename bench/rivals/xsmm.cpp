// libxsmm's product of a sparse and a dense matrix (spmdm) as a rival: W cut into its CSR slices once, untimed; all row-major.
// usage and commands: as bench/rivals/eigen.cpp.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <fstream>
#include <vector>

#include <libxsmm.h>
#include <omp.h>

#include "serve.h"

static std::vector<float> read(const char* path, int64_t count) {
  std::vector<float> v(static_cast<size_t>(count));
  std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(v.data()), count * 4);
  return v;
}

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const int rows = atoi(argv[1]), cols = atoi(argv[2]), columns = atoi(argv[3]), threads = omp_get_max_threads();
  const std::vector<float> w = read(argv[4], int64_t(rows) * cols), x = read(argv[5], int64_t(cols) * columns);
  std::vector<float> y(static_cast<size_t>(rows) * static_cast<size_t>(columns));
  libxsmm_spmdm_handle handle;
  libxsmm_CSR_sparseslice* slices = nullptr;
  libxsmm_spmdm_init(rows, columns, cols, threads, &handle, &slices);
  const int cuts = libxsmm_spmdm_get_num_createSparseSlice_blocks(&handle), blocks = libxsmm_spmdm_get_num_compute_blocks(&handle);
  for (int i = 0; i < cuts; i++) libxsmm_spmdm_createSparseSlice_fp32_thread(&handle, 'N', w.data(), slices, i, 0, 1);
  const float one = 1, zero = 0;
  const auto multiply = [&] {
#pragma omp parallel num_threads(threads)
    {
      const int me = omp_get_thread_num();
#pragma omp for schedule(static)
      for (int i = 0; i < blocks; i++)
        libxsmm_spmdm_compute_fp32_thread(&handle, 'N', 'N', &one, slices, x.data(), 'N', &zero, y.data(), i, me, threads);
    }
  };
  serve(LIBXSMM_VERSION, multiply, y.data(), static_cast<int64_t>(y.size()));
  libxsmm_spmdm_destroy(&handle);
}
