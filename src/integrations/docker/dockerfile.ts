const urlAdded = 'ADD takes plain paths of the repository only here: fetch URLs with RUN.';
const imageNotNamed =
  'FROM and COPY --from take an image by its name with a tag or digest here (node:24), without quotes. A variable in the name needs a plain default before the first FROM.';

/**
 * What is wrong with a Dockerfile for a server that does not trust its writer; null: nothing. The engine itself fetches
 * what `ADD` names by a URL, from this host and with its reach: RUN does it from within the build's container. And it
 * takes a few hexadecimal digits for the id of any image that begins so, other applications' included.
 */
export function objectionTo(dockerfile: string): string | null {
  const stages = new Set(['scratch']);
  /** Of variables that names of images may have: those before the first FROM. */
  const defaults = new Map<string, string>();
  let begun = false;
  for (const instruction of instructionsOf(dockerfile)) {
    const [, name = '', given = ''] = /^(?:onbuild\s+)*(\w+)\s+(.*)$/is.exec(instruction) ?? [];
    const words = given.trim().split(/\s+/);
    switch (name.toLowerCase()) {
      case 'add': {
        const paths = words.filter((word) => !/^--(?:chown|chmod)=/.test(word));
        // Variables, quotes and escapes could hide a URL; a path needs none of them, nor a colon.
        if (/[:$\\`]/.test(paths.join(' '))) return urlAdded;
        break;
      }
      case 'arg':
        if (!begun) setDefaults(words, defaults);
        break;
      case 'from': {
        begun = true;
        const [image = '', as = '', stage = ''] = words.filter((word) => !word.startsWith('--'));
        if (!isNamed(image, stages, defaults)) return imageNotNamed;
        if (as.toLowerCase() === 'as') stages.add(stage.toLowerCase());
        break;
      }
      case 'copy':
        for (const flag of words.slice(
          0,
          words.findIndex((word) => !word.startsWith('--')),
        )) {
          const from = /^--from=(.*)$/i.exec(flag)?.[1];
          // What is quoted or escaped is read as if it were not.
          if (/['"\\]/.test(flag)) return imageNotNamed;
          if (from !== undefined && !/^\d+$/.test(from) && !isNamed(from, stages, defaults)) return imageNotNamed;
        }
    }
  }
  return null;
}

/** Takes over the defaults of one ARG instruction; of one that is not plain, none that is known holds any more. */
function setDefaults(words: readonly string[], defaults: Map<string, string>): void {
  for (const word of words) {
    const [plain, name = '', value] = /^(\w+)(?:=([\w./:@-]*))?$/.exec(word.replace(/=(["'])(.*)\1$/, '=$2')) ?? [];
    if (plain === undefined) return defaults.clear();
    if (value === undefined) defaults.delete(name);
    else defaults.set(name, value);
  }
}

/** Whether this is a stage, or the name of an image which is no id, nor one of those that are made here. */
function isNamed(image: string, stages: ReadonlySet<string>, defaults: ReadonlyMap<string, string>): boolean {
  if (stages.has(image.toLowerCase())) return true;
  const known = image.replaceAll(/\$(?:\{(\w+)\}|(\w+))/g, (all, braced?: string, bare?: string) => defaults.get(braced ?? bare ?? '') ?? all); // prettier-ignore
  // The tag may be a variable without a default.
  const [, path = '', tag] = /^((?:[\w.-]+(?::\d+)?\/)?[\w.-]+(?:\/[\w.-]+)*)([:@][^'"\\`]+)?$/.exec(known) ?? [];
  if (path === '' || path === 'sha256' || (tag === undefined && /^[0-9a-f]+$/.test(path))) return false;
  return !/^(?:(?:index\.)?docker\.io\/)?switchyard\/[0-9a-f-]{36}\//.test(path);
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
