// Eigen's CSR product as a rival: both sides by rows, result memory reused, timed in here.
// usage: eigen ROWS COLS COLUMNS W_FILE X_FILE (dense float32; OMP_NUM_THREADS says how many threads), then one command a line:
//   run REPEATS  -> ok MS   of one repetition
//   result FILE  -> ok      ROWS x COLUMNS float32
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <chrono>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <Eigen/SparseCore>

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
  printf("ok %d.%d.%d\n", EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION);
  fflush(stdout);
  std::string command, argument;
  while (std::cin >> command >> argument) {
    if (command == "run") {
      const int repeats = atoi(argument.c_str());
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < repeats; i++) multiply();
      printf("ok %.9g\n", std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count() / repeats);
    } else {
      const float* from = columns == 1 ? line.data() : y.data();
      std::ofstream(argument, std::ios::binary).write(reinterpret_cast<const char*>(from), rows * columns * 4);
      printf("ok\n");
    }
    fflush(stdout);
  }
}
