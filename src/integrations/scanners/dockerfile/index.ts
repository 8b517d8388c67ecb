import { versionOf, type Outcome, type RawFinding, type Scanner } from '../scanner.ts';
import type { Source } from '../source.ts';

const maxBytes = 262_144;
const maxFiles = 50;
const isDockerfile = /^(?:(?:Dockerfile|Containerfile)(?:\..+)?|.+\.(?:dockerfile|containerfile))$/i;

/** Looks through the Dockerfiles of a repository: their syntax, and the rules of `rules.ts`. */
export const dockerfiles: Scanner = {
  name: 'DOCKERFILE',
  async scan(source: Source): Promise<Outcome> {
    const version = await versionOf('dockerfile-ast');
    const found = source.files.filter(({ name }) => isDockerfile.test(name) && !/\.dockerignore$/i.test(name));
    const { lint } = await import('./rules.ts');
    const findings: RawFinding[] = [];
    let left = source.cut;
    for (const file of found.slice(0, maxFiles)) {
      const content = await source.read(file, maxBytes);
      if (!content?.complete)
        left = 'A Dockerfile is longer than 256 KiB, or could not be opened inside of the checkout.';
      else findings.push(...lint(file.path, content.bytes.toString('utf8')));
    }
    if (found.length > maxFiles) left = `It has more than ${maxFiles} Dockerfiles.`;
    return {
      status: left ? 'PARTIAL' : 'RAN',
      ...(left ? { reason: left } : {}),
      version,
      notes: [
        found.length === 0 ? 'There is no Dockerfile.' : `${Math.min(found.length, maxFiles)} Dockerfiles were read.`,
      ],
      findings,
    };
  },
};
