import { Prisma, type ExtractionConfiguration } from '#prisma';
import { service, type App } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorize, authorizeRow } from '#kernel/auth/policy.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { Conflict, NotFound, ValidationError } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { definitionSchema, ExtractorUnavailable, type Definition } from '../../../integrations/extractors/index.ts';
import { ConfigurationConflict, DocumentQuotaExceeded } from '../errors.ts';
import { configurationArchived, configurationCreated, configurationUpdated } from '../events.ts';
import { ChangedConfiguration, NewConfiguration } from '../model.ts';
import { can } from '../policy.ts';
import { DocumentSettings, type Written } from './shared.ts';

/** Of a workspace, those that were put away not counted. */
const maxConfigurations = 1000;

/** A definition that a job or a preview is to use. */
export interface Chosen {
  /** Null: the defaults. */
  readonly configurationId: string | null;
  readonly version: number | null;
  readonly definition: Definition;
}

/** The writer of extraction_configuration and its versions. */
export const Configurations = service('extraction configurations', (app) => ({
  /** @throws {ValidationError} {NotFound} {Forbidden} {Conflict} {DocumentQuotaExceeded} */
  async create(actor: Actor, raw: unknown): Promise<Written> {
    const { workspaceId, name, definition: given } = parse(NewConfiguration, raw);
    const definition = definitionOf(given);
    authorize(actor, can.createConfiguration, workspaceId);
    return unlessTaken(name, () =>
      app.transact(actor, async (tx) => {
        await tx.db.$queryRaw`select 1 from workspace where id = ${workspaceId}::uuid for no key update`;
        const count = await tx.db.extractionConfiguration.count({ where: { workspaceId, archivedAt: null } });
        if (count >= maxConfigurations) throw new DocumentQuotaExceeded('CONFIGURATIONS', maxConfigurations, count + 1);
        const { id } = await tx.db.extractionConfiguration.create({
          data: { id: newId(), workspaceId, name, versions: { create: versionOf(actor, 1, definition) } },
        });
        const event = tx.append({ type: configurationCreated, workspaceId, subjectId: id, data: { version: 1 } });
        return { id, workspaceId, event };
      }),
    );
  },

  /**
   * Gives it another version, for jobs from now on; a new name alone is a new version, too.
   * @throws {ValidationError} {NotFound} {Forbidden} {Conflict} {ConfigurationConflict}
   */
  async update(actor: Actor, raw: unknown): Promise<Written> {
    const { id, expectedVersion, name, definition: given } = parse(ChangedConfiguration, raw);
    const changed = given == null ? null : definitionOf(given);
    return unlessTaken(name ?? '', () =>
      app.transact(actor, async (tx) => {
        const configuration = isId(id) ? await lock(tx, id) : null;
        authorizeRow(actor, can.updateConfiguration, configuration, 'ExtractionConfiguration', id);
        const { workspaceId, version } = configuration;
        requireOpen(configuration);
        if (version !== expectedVersion) throw new ConfigurationConflict(version);
        const definition = changed ?? (await stored(tx.db, id, version));
        await tx.db.extractionConfiguration.update({
          where: { id },
          data: {
            version: version + 1,
            ...(name == null ? {} : { name }),
            versions: { create: versionOf(actor, version + 1, definition) },
          },
        });
        const data = { version: version + 1 };
        const event = tx.append({ type: configurationUpdated, workspaceId, subjectId: id, data });
        return { id, workspaceId, event };
      }),
    );
  },

  /** Puts it away; one that was put away already is no error. @throws {NotFound} {Forbidden} */
  async archive(actor: Actor, id: string): Promise<Written> {
    return app.transact(actor, async (tx) => {
      const configuration = isId(id) ? await lock(tx, id) : null;
      authorizeRow(actor, can.archiveConfiguration, configuration, 'ExtractionConfiguration', id);
      const { workspaceId } = configuration;
      if (configuration.archivedAt) return { id, workspaceId, event: null };
      await tx.db.extractionConfiguration.update({ where: { id }, data: { archivedAt: new Date() } });
      return { id, workspaceId, event: tx.append({ type: configurationArchived, workspaceId, subjectId: id }) };
    });
  },

  /**
   * What is to be used in a workspace: that version of the configuration, without it the one that holds, without a
   * configuration the defaults.
   * @throws {NotFound} {Conflict} when it was put away
   * @throws {ExtractorUnavailable}
   */
  async choose(
    db: Db,
    workspaceId: string,
    of: { configurationId?: string | null | undefined; version?: number | null | undefined },
  ): Promise<Chosen> {
    const { configurationId, version: wanted } = of;
    if (configurationId == null) {
      if (wanted != null)
        throw new ValidationError([{ path: 'configurationVersion', message: 'needs configurationId' }]);
      return { configurationId: null, version: null, definition: definitionOf({}) };
    }
    const found = isId(configurationId)
      ? await db.extractionConfiguration.findFirst({ where: { id: configurationId, workspaceId } })
      : null;
    if (!found) throw new NotFound('ExtractionConfiguration', configurationId);
    requireOpen(found);
    const version = wanted ?? found.version;
    if (version > found.version)
      throw new ValidationError([{ path: 'configurationVersion', message: `must be at most ${found.version}` }]);
    const definition = await stored(db, configurationId, version);
    requireExtractor(app, definition);
    return { configurationId, version, definition };
  },

  /** The definition of a version, which never changes; null: the defaults. */
  async definition(configurationId: string | null, version: number | null): Promise<Definition> {
    return configurationId === null || version === null ? definitionOf({}) : stored(app.db, configurationId, version);
  },
}));

type Db = Pick<App['db'], 'extractionConfiguration' | 'extractionConfigurationVersion'>;

/** @throws {ValidationError} with paths below `definition` */
export function definitionOf(given: unknown): Definition {
  const result = definitionSchema.safeParse(given);
  if (result.success) return result.data;
  throw new ValidationError(
    result.error.issues.map(({ path, message }) => ({ path: ['definition', ...path.map(String)].join('.'), message })),
  );
}

/** @throws {ExtractorUnavailable} when the definition names one that this server does not have */
export function requireExtractor(app: App, { extractor }: Definition): void {
  if (!extractor || app.use(DocumentSettings).extractors.has(extractor)) return;
  throw new ExtractorUnavailable(`The extractor ${extractor} is not configured on this server.`);
}

async function stored(
  db: Pick<App['db'], 'extractionConfigurationVersion'>,
  configurationId: string,
  version: number,
): Promise<Definition> {
  const row = await db.extractionConfigurationVersion.findUniqueOrThrow({
    where: { configurationId_version: { configurationId, version } },
  });
  return definitionOf(row.definition);
}

const versionOf = (actor: Actor, version: number, definition: Definition) => ({
  version,
  definition: definition as Prisma.InputJsonObject,
  createdById: actor.userId,
});

async function lock(tx: Transaction, id: string): Promise<ExtractionConfiguration | null> {
  await tx.db.$queryRaw`select 1 from extraction_configuration where id = ${id}::uuid for update`;
  return tx.db.extractionConfiguration.findUnique({ where: { id } });
}

function requireOpen({ archivedAt }: ExtractionConfiguration): void {
  if (archivedAt) throw new Conflict('The configuration was archived.');
}

/** @throws {Conflict} when an index refuses the name */
async function unlessTaken<T>(name: string, write: () => Promise<T>): Promise<T> {
  try {
    return await write();
  } catch (error) {
    if (error instanceof Prisma.PrismaClientKnownRequestError && error.code === 'P2002')
      throw new Conflict(`There is a configuration ${name} in this workspace already.`);
    throw error;
  }
}
