// Eigen's CSR product as a rival: both sides by rows, result memory reused, timed in here.
// usage: eigen ROWS COLS COLUMNS W_FILE X_FILE (dense float32; OMP_NUM_THREADS says how many threads), then one command a line:
//   run REPEATS  -> ok MS   of one repetition
//   result FILE  -> ok      ROWS x COLUMNS float32
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <fstream>
#include <vector>

#include <Eigen/Core>
#include <Eigen/SparseCore>

#include "serve.h"

typedef Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> Dense;
typedef Eigen::SparseMatrix<float, Eigen::RowMajor> Sparse;

static Dense read(const char* path, int64_t rows, int64_t columns) {
  Dense m(rows, columns);
  std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(m.data()), rows * columns * 4);
  return m;
}

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const int64_t rows = atoll(argv[1]), cols = atoll(argv[2]), columns = atoll(argv[3]);
  const Sparse w = read(argv[4], rows, cols).sparseView();
  const Dense x = read(argv[5], cols, columns);
  const Eigen::VectorXf column = x.col(0);
  Dense y = Dense::Zero(rows, columns);
  Eigen::VectorXf line = Eigen::VectorXf::Zero(rows);
  const auto multiply = [&] {
    if (columns == 1) line.noalias() = w * column;
    else y.noalias() = w * x;
  };
  char version[32];
  snprintf(version, sizeof version, "%d.%d.%d", EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION);
  serve(version, multiply, columns == 1 ? line.data() : y.data(), rows * columns);
}
