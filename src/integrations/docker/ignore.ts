/** Says whether a path of the context, relative and with slashes, is left out by the text of a `.dockerignore`. */
export function ignoredBy(text: string): (path: string) => boolean {
  const rules = text
    .split(/\r?\n/)
    .filter((line) => !line.startsWith('#'))
    .map((line) => line.trim())
    .flatMap((line) => {
      const keep = line.startsWith('!');
      const pattern = (keep ? line.slice(1) : line).split('/').filter((part) => !/^\s*\.?\s*$/.test(part));
      return pattern.length === 0 ? [] : [{ keep, pattern: pattern.map((part) => part.trim()) }];
    });
  return (path) => {
    const parts = path.split('/');
    // The last rule that fits decides; one that fits a folder fits all that is in it.
    const fits = (pattern: readonly string[]) =>
      parts.some((_, index) => like(pattern, parts.slice(0, index + 1), (one) => one === '**', partFits));
    const last = rules.findLast(({ pattern }) => fits(pattern));
    return last !== undefined && !last.keep;
  };
}

const partFits = (pattern: string, part: string): boolean =>
  like(
    Array.from(pattern),
    Array.from(part),
    (one) => one === '*',
    (one, char) => one === '?' || one === char,
  );

/** Whether a pattern with wildcards for any number of items fits all of the items; in quadratic time, whatever it is. */
function like<T>(
  pattern: readonly T[],
  items: readonly T[],
  isWildcard: (one: T) => boolean,
  fits: (one: T, item: T) => boolean,
): boolean {
  let [p, i] = [0, 0];
  let [wildcard, from] = [-1, 0];
  while (i < items.length) {
    const [one, item] = [pattern[p], items[i] as T];
    if (one !== undefined && isWildcard(one)) {
      [wildcard, from] = [p, i];
      p += 1;
    } else if (one !== undefined && fits(one, item)) {
      p += 1;
      i += 1;
    } else if (wildcard >= 0) {
      from += 1;
      [p, i] = [wildcard + 1, from];
    } else return false;
  }
  return pattern.slice(p).every(isWildcard);
}
