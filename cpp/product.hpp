// Products of plain matrices, as training needs them: C = A B, and, with lines for columns, A^T B and A B^T.
#pragma once

#include "kernels/kernels.hpp"
#include "team.hpp"

namespace ordito {

// c (m, n) = A (m, k) B (k, n): `rows` has the m rows of A, `columns` the n columns of B. Each number of c is summed up in one
// order, whatever m, n and the number of threads are.
void multiply(const Products& by, std::int64_t m, std::int64_t n, std::int64_t k, const Lines& rows, const Lines& columns, const Target& c,
              const Team& team);

}  // namespace ordito
