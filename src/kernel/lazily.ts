/** A thing of asynchronous methods, and of things that have such, which is made when the first of them is called. */
export function lazily<T extends object>(open: () => Promise<T>): T {
  return methods(open as () => Promise<Methods>, []) as T;
}

type Methods = { readonly [name: string]: Methods & ((...args: unknown[]) => unknown) };

/** Methods are those whose name begins with `$`, and those of a part. */
function methods(open: () => Promise<Methods>, path: readonly string[]): object {
  return new Proxy(
    {},
    {
      get(_, name) {
        // Awaited itself, it is no promise.
        if (typeof name === 'symbol' || name === 'then') return undefined;
        if (path.length === 0 && !name.startsWith('$')) return methods(open, [name]);
        return async (...args: unknown[]) => {
          let of = await open();
          for (const part of path) of = of[part] as Methods;
          return (of[name] as (...args: unknown[]) => unknown).apply(of, args);
        };
      },
    },
  );
}
