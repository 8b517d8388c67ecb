/**
 * What is wrong with a Dockerfile for a server that does not trust its writer; null: nothing. The engine itself fetches
 * what `ADD` names by a URL, from this host and with its reach: RUN does it from within the build's container.
 */
export function objectionTo(dockerfile: string): string | null {
  for (const instruction of instructionsOf(dockerfile)) {
    const source = /^(?:onbuild\s+)*add\s+(?<source>.*)$/is.exec(instruction)?.groups?.['source'];
    if (source === undefined) continue;
    const paths = source.split(/\s+/).filter((word) => !/^--(?:chown|chmod)=/.test(word));
    // Variables, quotes and escapes could hide a URL; a path needs none of them, nor a colon.
    if (/[:$\\`]/.test(paths.join(' ')))
      return 'ADD takes plain paths of the repository only here: fetch URLs with RUN.';
  }
  return null;
}

/** Instructions with their continuation lines put together, comments left out. */
function instructionsOf(dockerfile: string): string[] {
  const lines = dockerfile.replace(/^\ufeff/, '').split(/\r?\n/);
  const escape = lines.slice(0, 10).some((line) => /^\s*#\s*escape\s*=\s*`\s*$/i.test(line)) ? '`' : '\\';
  const found: string[] = [];
  let open = '';
  for (const line of lines) {
    if (/^\s*(?:#|$)/.test(line)) continue;
    const text = line.trimEnd();
    if (text.endsWith(escape)) {
      open += text.slice(0, -1);
      continue;
    }
    found.push((open + text).trimStart());
    open = '';
  }
  if (open !== '') found.push(open.trimStart());
  return found;
}
