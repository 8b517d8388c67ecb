import path from 'node:path';
import { readXml } from './xml.ts';
import type { Package } from './zip.ts';

/** What a part of a package refers to. @see ECMA-376 part 2, 6.5 */
export interface Relation {
  readonly id: string;
  /** The last part of its type's address, which transitional and strict documents have in common. */
  readonly type: string;
  /** Name of the other part, without a leading slash. */
  readonly part: string;
}

const most = 20_000;

/** The relations of a part, '' of the package itself; those that lead out of the package are left out. */
export async function relations(pack: Package, part: string): Promise<Relation[]> {
  const folder = path.posix.dirname(part);
  const name = path.posix.join(folder, '_rels', `${path.posix.basename(part)}.rels`);
  const found: Relation[] = [];
  if (!pack.has(name)) return found;
  await readXml(pack.read(name), {
    open(tag, { Id, Type, Target, TargetMode }) {
      if (tag !== 'Relationship' || Id === undefined || Target === undefined || TargetMode === 'External') return;
      if (found.length >= most) return;
      const target = Target.startsWith('/') ? Target.slice(1) : path.posix.join(folder, Target);
      found.push({ id: Id, type: Type?.split('/').at(-1) ?? '', part: target });
    },
    close: () => undefined,
    text: () => undefined,
  });
  return found;
}
