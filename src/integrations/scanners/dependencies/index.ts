import { versionOf, type Outcome, type RawFinding, type Scanner } from '../scanner.ts';
import type { Source } from '../source.ts';
import type { Answer, Match } from './advisories.ts';
import { isLock, LockUnreadable, parseLock, type Lock, type LockedPackage } from './locks.ts';

/** Where advisories come from, as the operator says. */
export interface AdvisorySources {
  /** Folder or file of advisories in the OSV format. */
  readonly osvPath: string | null;
  /** npm registry. */
  readonly registryUrl: string | null;
  readonly allowLoopback: boolean;
}

const maxLocks = 50;
const maxLockBytes = 32 * 1_048_576;
const maxPackages = 50_000;
/** A database that is older is told of, days. */
const oldDays = 14;
const dayMs = 86_400_000;

/** Manifests of ecosystems that nothing here knows. */
const foreign =
  /^(?:go\.mod|Cargo\.lock|Cargo\.toml|requirements[\w.-]*\.txt|poetry\.lock|uv\.lock|Pipfile(?:\.lock)?|pyproject\.toml|Gemfile(?:\.lock)?|composer\.(?:json|lock)|pom\.xml|build\.gradle(?:\.kts)?|.+\.csproj|packages\.lock\.json|mix\.lock|pubspec\.lock|bun\.lockb?|deno\.lock)$/;

/** Looks the packages of lock files up in advisories. */
export const dependencies = (sources: AdvisorySources): Scanner => ({
  name: 'DEPENDENCIES',
  async scan(source: Source): Promise<Outcome> {
    const version = await versionOf('semver');
    if (!sources.osvPath && !sources.registryUrl) {
      const reason =
        'No database of advisories is configured: see SWITCHYARD_ADVISORIES and SWITCHYARD_ADVISORY_REGISTRY.';
      return { status: 'NOT_RUN', reason, version };
    }
    const { locks, left, notes } = await readLocks(source);
    const all = new Map(locks.flatMap(({ packages }) => packages).map((one) => [`${one.name}@${one.version}`, one]));
    const packages = [...all.values()].slice(0, maxPackages);
    if (all.size > maxPackages) left.push(`There are more than ${maxPackages} packages.`);
    const answers = await ask(sources, packages);
    for (const { database, cut } of answers) {
      if (cut) left.push(cut);
      const days = database.date ? Math.floor((Date.now() - Date.parse(database.date)) / dayMs) : null;
      if (days === null) notes.push(`${database.name}: its age is not known.`);
      else if (days > oldDays) notes.push(`${database.name}: its newest advisory is ${days} days old.`);
    }
    notes.push(...answers.flatMap((answer) => answer.notes), `${packages.length} packages were looked up.`);
    const dates = answers.flatMap(({ database }) => database.date ?? []).toSorted();
    return {
      status: left.length > 0 ? 'PARTIAL' : 'RAN',
      ...(left.length > 0 ? { reason: left.join(' ') } : {}),
      version,
      // Of two, the older one tells how old the knowledge is.
      database: { name: answers.map(({ database }) => database.name).join('; '), date: dates[0] ?? null },
      notes,
      findings: findingsOf(locks, answers),
    };
  },
});

async function ask(sources: AdvisorySources, packages: readonly LockedPackage[]): Promise<Answer[]> {
  const answers: Answer[] = [];
  if (sources.osvPath) answers.push(await (await import('./osv.ts')).askOsv(sources.osvPath, packages));
  if (sources.registryUrl) {
    const { askRegistry } = await import('./registry.ts');
    answers.push(await askRegistry({ url: sources.registryUrl, allowLoopback: sources.allowLoopback }, packages));
  }
  return answers;
}

async function readLocks(source: Source) {
  const locks: (Lock & { readonly file: string })[] = [];
  const left: string[] = source.cut ? [source.cut] : [];
  const notes: string[] = [];
  const inSource = source.files.filter(({ path }) => !path.split('/').includes('node_modules'));
  const found = inSource.filter(({ name }) => isLock(name));
  if (found.length > maxLocks) left.push(`There are more than ${maxLocks} lock files.`);
  for (const file of found.slice(0, maxLocks)) {
    const content = await source.read(file, maxLockBytes);
    if (!content?.complete) {
      left.push(`${file.path} is longer than 32 MiB, or could not be opened inside of the checkout.`);
      continue;
    }
    try {
      const lock = parseLock(file.name, content.bytes.toString('utf8'));
      locks.push({ ...lock, file: file.path });
      if (lock.elsewhere > 0) left.push(`${file.path}: nothing is known about ${lock.elsewhere} entries that come from no registry.`); // prettier-ignore
    } catch (error) {
      if (!(error instanceof LockUnreadable)) throw error;
      left.push(`${file.path} cannot be read: ${error.message}.`);
    }
  }
  const isRoot = (path: string): boolean => !path.includes('/');
  if (inSource.some(({ path }) => path === 'package.json') && !found.some(({ path }) => isRoot(path))) {
    if (await hasDependencies(source))
      left.push('package.json has no lock file: what would be installed is not known.');
  }
  const others = inSource.filter(({ name }) => foreign.test(name)).map(({ path }) => path);
  if (others.length > 0) left.push(`Not covered: ${others.slice(0, 5).join(', ')}${others.length > 5 ? ', …' : ''}.`);
  notes.push(
    found.length === 0 ? 'There is no lock file.' : `${locks.length} of ${found.length} lock files were read.`,
  );
  return { locks, left, notes };
}

/** Whether the manifest at the root wants packages; one that cannot be read may. */
async function hasDependencies(source: Source): Promise<boolean> {
  const content = await source.read({ path: 'package.json', name: 'package.json' }, 1_048_576);
  try {
    const manifest = JSON.parse(content?.bytes.toString('utf8') ?? '') as Record<string, unknown>;
    return ['dependencies', 'devDependencies', 'optionalDependencies'].some(
      (name) => Object.keys(manifest[name] ?? {}).length > 0,
    );
  } catch {
    return true;
  }
}

/** One for each lock file, package and advisory, whatever versions of the package there are. */
function findingsOf(locks: readonly (Lock & { readonly file: string })[], answers: readonly Answer[]): RawFinding[] {
  const byPackage = new Map<string, Map<string, Match>>();
  for (const match of answers.flatMap(({ matches }) => matches)) {
    const key = `${match.pkg.name}@${match.pkg.version}`;
    const known = byPackage.get(key) ?? new Map<string, Match>();
    const before = known.get(match.id);
    // The first to tell of it is kept, unless only the other one knows a fix.
    if (!before || (before.fixedVersion === null && match.fixedVersion !== null)) known.set(match.id, match);
    byPackage.set(key, known);
  }
  return locks.flatMap(({ file, packages }) => {
    const groups = new Map<string, Match[]>();
    for (const { name, version } of packages) {
      for (const match of byPackage.get(`${name}@${version}`)?.values() ?? []) {
        const key = `${name}\n${match.id}`;
        groups.set(key, [...(groups.get(key) ?? []), match]);
      }
    }
    return [...groups.values()].flatMap((group) => {
      const [one] = group;
      if (!one) return [];
      const fixes = [...new Set(group.flatMap(({ fixedVersion }) => fixedVersion ?? []))];
      return {
        severity: one.severity,
        rule: one.id,
        title: one.title,
        file,
        packageName: one.pkg.name,
        installedVersion: group.map(({ pkg }) => pkg.version).join(', '),
        fixedVersion: fixes.length > 0 ? fixes.join(', ') : null,
        advisoryId: one.id,
        advisoryUrl: one.url,
        identity: [file, one.pkg.name],
      };
    });
  });
}
