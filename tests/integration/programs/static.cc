// static: linked without a dynamic loader, so nothing can be preloaded into it.

#include <cstdio>

int main() {
  puts("static: ran");
  return 0;
}
