// Token t of x [tokens, heads, width] turned by position[t]: the pair (i, i + width/2) is a complex number times e^(i * angle).
#pragma once

#include <cmath>
#include <complex>
#include <vector>

namespace ropewalk::reference {

inline std::vector<double> rope(const std::vector<double>& x, const std::vector<int64_t>& position, size_t heads, size_t width,
                                double theta) {
  std::vector<double> y(x.size());
  for (size_t t = 0; t < position.size(); ++t)
    for (size_t h = 0; h < heads; ++h)
      for (size_t i = 0; i < width / 2; ++i) {
        const size_t first = (t * heads + h) * width + i, second = first + width / 2;
        const double angle = static_cast<double>(position[t]) / std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(width));
        const std::complex<double> turned = std::complex<double>(x[first], x[second]) * std::polar(1.0, angle);
        y[first] = turned.real();
        y[second] = turned.imag();
      }
  return y;
}

}  // namespace ropewalk::reference
