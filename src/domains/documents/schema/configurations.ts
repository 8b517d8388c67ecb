import { Conflict, RateLimited } from '#kernel/errors.ts';
import { loadUser, UserRef } from '#kernel/auth/schema.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import {
  ErrorInterface,
  errorType,
  eventCursor,
  failing,
  guarded,
  guardedPart,
  newestFirst,
  visible,
} from '#kernel/graphql/kit.ts';
import { EventPage, timeline, timelineArgs, timelineCost } from '#kernel/runs/schema.ts';
import { ConfigurationConflict, DocumentQuarantined, DocumentQuotaExceeded } from '../errors.ts';
import { maxPreviewRows } from '../model.ts';
import { can } from '../policy.ts';
import {
  cellNotes,
  columnTypes,
  Configurations,
  definitionOf,
  Previews,
  type Cell,
  type Citation,
  type Column,
  type Definition,
  type Preview,
  type PreviewTable,
  type Written,
} from '../service/index.ts';
import { DocumentRef, readingFails } from './documents.ts';

errorType(ConfigurationConflict, {
  name: 'ConfigurationConflict',
  description: 'The configuration was changed since you looked.',
  interfaces: [ErrorInterface],
  fields: (t) => ({ currentVersion: t.exposeInt('currentVersion', { description: 'The version that holds.' }) }),
});

const typeDescriptions: Record<(typeof columnTypes)[number], string> = {
  TEXT: 'Text as it is.',
  INTEGER: 'A whole number.',
  DECIMAL: 'A number, as canonical text like `-1234.5`.',
  BOOLEAN: 'Yes or no.',
  DATE: 'A date like `2025-03-31`.',
  DATETIME: 'A date with a time like `2025-03-31T12:00:00`, with an offset where one is known.',
};
export const ColumnTypeEnum = builder.enumType('ColumnType', {
  description: 'What the values of a column are.',
  values: Object.fromEntries(columnTypes.map((type) => [type, { description: typeDescriptions[type] }])) as Record<
    (typeof columnTypes)[number],
    { description: string }
  >,
});
const extractors = ['BUILT_IN', 'HTTP', 'MODEL'] as const;
const ExtractorEnum = builder.enumType('Extractor', {
  description: 'What reads a document.',
  values: {
    BUILT_IN: { description: 'This server itself.' },
    HTTP: { description: 'A service that an operator configured.' },
    MODEL: { description: 'A language model that an operator configured.' },
  } satisfies Record<(typeof extractors)[number], { description: string }>,
});

const box = {
  x: 'From the left, points.',
  y: 'From the top, points.',
  width: 'Width, points.',
  height: 'Height, points.',
};
const BoxInput = builder.inputType('BoxInput', {
  description: 'A part of a page, in points (1/72 inch) from its top left, the page turned as a reader sees it.',
  fields: (t) => ({
    x: t.float({ description: box.x }),
    y: t.float({ description: box.y }),
    width: t.float({ description: box.width }),
    height: t.float({ description: box.height }),
  }),
});
const ColumnInput = builder.inputType('ExtractionColumnInput', {
  description: 'What a column of every table is taken for.',
  fields: (t) => ({
    name: t.string({ description: 'Its name, 1 to 200 characters, unique.' }),
    type: t.field({ type: ColumnTypeEnum, required: false, description: 'Its type; default: what its values are.' }),
    required: t.boolean({
      required: false,
      description: 'Whether an empty cell in it wants a review; default: false.',
    }),
  }),
});
const AreaInput = builder.inputType('ExtractionAreaInput', {
  description: 'Where a table is on a page of a PDF.',
  fields: (t) => ({
    page: t.int({ description: 'Page, from 1.' }),
    box: t.field({ type: BoxInput, description: 'The part of the page.' }),
  }),
});
const parts = {
  sheets: 'Sheets of a workbook: names, or numbers from 1 as text. Default: all that are not hidden.',
  pages: 'Pages of a PDF, as `1-3,7`. Default: all.',
  headerRows: 'Rows at the top of each table that name its columns, 0 to 10. Default: found out.',
  columns: 'Names and types of columns by their order; those beyond them are named and typed by the document.',
  locale: 'BCP 47 language tag, for instance `de-CH`: decides the decimal separator and the order of day and month.',
  dateFormats: 'Unicode patterns of dates, for instance `dd.MM.yyyy`, tried first.',
  timeZone: 'IANA name of the time zone of what has a time and no offset.',
  encoding: 'Encoding of a CSV, TSV or HTML file, for instance `windows-1252`. Default: found out.',
  delimiter: 'What separates fields of a CSV file, one character. Default: found out.',
  quote: 'What quotes fields of a CSV file, one character; empty: nothing does. Default: found out.',
  areas: 'Of a PDF: tables are looked for there only, one in each.',
  minConfidence: 'A cell whose confidence is lower wants a review, 0 to 1. Default: 0.7.',
  extractor: 'What reads the document. Default: BUILT_IN.',
};
const DefinitionInput = builder.inputType('ExtractionDefinitionInput', {
  description: 'How tables are found and read. What is left out is found out from the document.',
  fields: (t) => ({
    sheets: t.stringList({ required: false, description: parts.sheets }),
    pages: t.string({ required: false, description: parts.pages }),
    headerRows: t.int({ required: false, description: parts.headerRows }),
    columns: t.field({ type: [ColumnInput], required: false, description: parts.columns }),
    locale: t.string({ required: false, description: parts.locale }),
    dateFormats: t.stringList({ required: false, description: parts.dateFormats }),
    timeZone: t.string({ required: false, description: parts.timeZone }),
    encoding: t.string({ required: false, description: parts.encoding }),
    delimiter: t.string({ required: false, description: parts.delimiter }),
    quote: t.string({ required: false, description: parts.quote }),
    areas: t.field({ type: [AreaInput], required: false, description: parts.areas }),
    minConfidence: t.float({ required: false, description: parts.minConfidence }),
    extractor: t.field({ type: ExtractorEnum, required: false, description: parts.extractor }),
  }),
});

interface BoxLike {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** As the service reads it: null is absence, a box a list of numbers. */
function given(input: typeof DefinitionInput.$inferInput): unknown {
  const { areas, ...rest } = input;
  const boxes = areas?.map(({ page, box: { x, y, width, height } }) => ({ page, box: [x, y, width, height] }));
  return withoutNulls({ ...rest, areas: boxes });
}

const withoutNulls = (value: unknown): unknown =>
  Array.isArray(value)
    ? value.map(withoutNulls)
    : typeof value === 'object' && value !== null
      ? Object.fromEntries(
          Object.entries(value).flatMap(([name, part]) => (part == null ? [] : [[name, withoutNulls(part)]])),
        )
      : value;

export const BoxRef = builder.objectRef<BoxLike>('Box').implement({
  description: 'A part of a page, in points (1/72 inch) from its top left, the page turned as a reader sees it.',
  fields: (t) => ({
    x: t.exposeFloat('x', { description: box.x }),
    y: t.exposeFloat('y', { description: box.y }),
    width: t.exposeFloat('width', { description: box.width }),
    height: t.exposeFloat('height', { description: box.height }),
  }),
});
/** A box as the extractors write it. */
export const boxOf = ([x, y, width, height]: readonly [number, number, number, number]): BoxLike => ({
  x,
  y,
  width,
  height,
});

type DefinedColumn = NonNullable<Definition['columns']>[number];
type Area = NonNullable<Definition['areas']>[number];
const DefinedColumnRef = builder.objectRef<DefinedColumn>('ExtractionColumn').implement({
  description: 'What a column of every table is taken for.',
  fields: (t) => ({
    name: t.exposeString('name', { description: 'Its name.' }),
    type: t.field({
      type: ColumnTypeEnum,
      nullable: true,
      description: 'Its type; null: what its values are.',
      resolve: ({ type }) => type ?? null,
    }),
    required: t.boolean({
      description: 'Whether an empty cell in it wants a review.',
      resolve: ({ required }) => required ?? false,
    }),
  }),
});
const AreaRef = builder.objectRef<Area>('ExtractionArea').implement({
  description: 'Where a table is on a page of a PDF.',
  fields: (t) => ({
    page: t.exposeInt('page', { description: 'Page, from 1.' }),
    box: t.field({ type: BoxRef, description: 'The part of the page.', resolve: (area) => boxOf(area.box) }),
  }),
});
const DefinitionRef = builder.objectRef<Definition>('ExtractionDefinition').implement({
  description: 'How tables are found and read. What is null is found out from the document.',
  fields: (t) => ({
    sheets: t.stringList({ nullable: true, description: parts.sheets, resolve: ({ sheets }) => sheets }),
    pages: t.string({ nullable: true, description: parts.pages, resolve: ({ pages }) => pages }),
    headerRows: t.int({ nullable: true, description: parts.headerRows, resolve: ({ headerRows }) => headerRows }),
    columns: t.field({
      type: [DefinedColumnRef],
      nullable: true,
      description: parts.columns,
      resolve: ({ columns }) => columns,
    }),
    locale: t.string({ nullable: true, description: parts.locale, resolve: ({ locale }) => locale }),
    dateFormats: t.stringList({
      nullable: true,
      description: parts.dateFormats,
      resolve: ({ dateFormats }) => dateFormats,
    }),
    timeZone: t.string({ nullable: true, description: parts.timeZone, resolve: ({ timeZone }) => timeZone }),
    encoding: t.string({ nullable: true, description: parts.encoding, resolve: ({ encoding }) => encoding }),
    delimiter: t.string({ nullable: true, description: parts.delimiter, resolve: ({ delimiter }) => delimiter }),
    quote: t.string({ nullable: true, description: parts.quote, resolve: ({ quote }) => quote }),
    areas: t.field({ type: [AreaRef], nullable: true, description: parts.areas, resolve: ({ areas }) => areas }),
    minConfidence: t.float({
      nullable: true,
      description: parts.minConfidence,
      resolve: ({ minConfidence }) => minConfidence,
    }),
    extractor: t.field({
      type: ExtractorEnum,
      nullable: true,
      description: parts.extractor,
      resolve: ({ extractor }) => extractor,
    }),
  }),
});

builder.prismaObject('ExtractionConfigurationVersion', {
  description: 'One version of a configuration. It never changes.',
  authScopes: guardedPart('ExtractionConfigurationVersion').authScopes,
  fields: (t) => ({
    version: t.exposeInt('version', { description: 'From 1.' }),
    definition: t.field({
      type: DefinitionRef,
      description: 'How tables are found and read.',
      resolve: ({ definition }) => definitionOf(definition),
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was made.' }),
    createdBy: t.field({
      type: UserRef,
      nullable: true,
      description: 'Who made it; null: somebody you share no workspace with any more.',
      compiled: { one: 'User', id: 'createdById' },
      resolve: ({ createdById }, _, context) => loadUser(context, createdById),
    }),
  }),
});

export const ConfigurationRef = builder.prismaNode('ExtractionConfiguration', {
  id: { field: 'id' },
  description: 'How tables are found and read, in versions: a job keeps the version that it was asked for with.',
  ...guarded('ExtractionConfiguration'),
  fields: (t) => ({
    name: t.exposeString('name'),
    version: t.exposeInt('version', { description: 'The version that holds; raised by every change.' }),
    archivedAt: t.expose('archivedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it was put away; null: it was not.',
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was created.' }),
    updatedAt: t.expose('updatedAt', { type: 'DateTime', description: 'When it was changed last.' }),
    workspace: t.relation('workspace', { description: 'The workspace that it belongs to.' }),
    definition: t.field({
      type: DefinitionRef,
      description: 'The definition that holds.',
      select: { versions: { orderBy: { version: 'desc' }, take: 1, select: { definition: true } } },
      resolve: ({ versions }) => definitionOf(versions[0]?.definition),
    }),
    versions: t.relatedConnection('versions', {
      cursor: 'configurationId_version',
      totalCount: true,
      description: 'All of its versions, newest first.',
      query: (_, context) => ({
        where: visible(context, 'ExtractionConfigurationVersion'),
        orderBy: { version: 'desc' as const },
      }),
    }),
    events: t.field({
      type: EventPage,
      complexity: timelineCost,
      description:
        'Its timeline: what the log of the workspace tells of it, oldest first. To follow, use `workspaceEvents` with `subjectId`.',
      args: { first: t.arg.int(timelineArgs.first), after: t.arg.string(timelineArgs.after) },
      resolve: (configuration, args, context) => timeline(context, configuration, args),
    }),
  }),
});

builder.prismaObjectField('Workspace', 'extractionConfigurations', (t) =>
  t.relatedConnection('configurations', {
    cursor: 'id',
    totalCount: true,
    description: 'Its configurations for extractions, newest first.',
    args: {
      archived: t.arg.boolean({
        required: false,
        description: 'Only those that were put away (true) or were not (false). Null: all. Default: false.',
        defaultValue: false,
      }),
    },
    query: ({ archived }, context) => ({
      where: visible(
        context,
        'ExtractionConfiguration',
        archived == null ? {} : { archivedAt: archived ? { not: null } : null },
      ),
      orderBy: newestFirst,
    }),
  }),
);

const configurationSuccess = (name: string, description: string) =>
  builder.objectRef<Written>(name).implement({
    description,
    fields: (t) => ({
      configuration: t.prismaField({
        type: ConfigurationRef,
        description: 'The configuration.',
        resolve: (query, { id }, _, { app }) =>
          app.db.extractionConfiguration.findUniqueOrThrow({ ...query, where: { id } }),
      }),
      eventCursor: t.string(eventCursor),
    }),
  });

const noteDescriptions: Record<(typeof cellNotes)[number], string> = {
  AMBIGUOUS_NUMBER: 'It can be read as more than one number.',
  AMBIGUOUS_DATE: 'It can be read as more than one date.',
  TYPE_MISMATCH: 'It is not of the type of its column.',
  MERGED: 'It is covered by a merged cell, whose value it repeats.',
  FORMULA_WITHOUT_VALUE: 'The file has a formula and not its result: nothing is computed here.',
  ERROR_VALUE: "A spreadsheet's error value, as #N/A.",
  MISSING: 'A required column has nothing here.',
  UNCERTAIN_PLACE: "Read off the page's geometry with some doubt.",
};
export const CellNoteEnum = builder.enumType('CellNote', {
  description: 'Why a cell is less than certain, or how it came to its value.',
  values: Object.fromEntries(cellNotes.map((note) => [note, { description: noteDescriptions[note] }])) as Record<
    (typeof cellNotes)[number],
    { description: string }
  >,
});

const PreviewCellRef = builder.objectRef<Cell>('PreviewCell').implement({
  description: 'A cell as it would be extracted.',
  fields: (t) => ({
    text: t.exposeString('text', { description: 'As it is shown in the document.' }),
    value: t.string({
      nullable: true,
      description: 'Its value in canonical form, as text; null: there is none.',
      resolve: ({ value }) => (value === null ? null : String(value)),
    }),
    type: t.field({
      type: ColumnTypeEnum,
      nullable: true,
      description: 'What the value is; null: the cell is empty.',
      resolve: ({ type }) => (type === 'EMPTY' ? null : type),
    }),
    confidence: t.exposeFloat('confidence', { description: 'From 0 to 1.' }),
    note: t.field({
      type: CellNoteEnum,
      nullable: true,
      description: 'Why the confidence is what it is.',
      resolve: ({ note }) => note ?? null,
    }),
    citation: t.field({
      type: 'JSON',
      description:
        'Where it is in the document, counted from 1: `{kind: SHEET, sheet, ref}`, `{kind: PAGE, page, box}`, `{kind: LINE, line, column}` or `{kind: ELEMENT, path}`.',
      resolve: ({ citation }): Citation => citation,
    }),
  }),
});
const PreviewColumnRef = builder.objectRef<Column>('PreviewColumn').implement({
  description: 'A column as it would be extracted.',
  fields: (t) => ({
    name: t.exposeString('name', { description: 'Its name.' }),
    type: t.field({ type: ColumnTypeEnum, description: 'What its values are.', resolve: ({ type }) => type }),
  }),
});
const PreviewTableRef = builder.objectRef<PreviewTable>('PreviewTable').implement({
  description: 'The beginning of a table as it would be extracted.',
  fields: (t) => ({
    name: t.exposeString('name', { description: 'For a person: the sheet, the caption, or its number.' }),
    page: t.exposeInt('page', { nullable: true, description: 'Page of a PDF, from 1.' }),
    sheet: t.exposeString('sheet', { nullable: true, description: 'Sheet of a workbook.' }),
    columns: t.field({ type: [PreviewColumnRef], description: 'Its columns.', resolve: ({ columns }) => [...columns] }),
    rows: t.field({
      type: t.listRef(t.listRef(PreviewCellRef)),
      description: 'Its first rows.',
      complexity: 1,
      resolve: ({ rows }) => rows.map((row) => [...row]),
    }),
  }),
});
type Warning = Preview['warnings'][number];
const WarningRef = builder
  .objectRef<Pick<Warning, 'code' | 'message' | 'page' | 'sheet'>>('ExtractionWarning')
  .implement({
    description: 'Something about a document that a reader of its tables should know.',
    fields: (t) => ({
      code: t.exposeString('code', { description: 'Stable name.' }),
      message: t.exposeString('message', { description: 'What it is, for a person.' }),
      page: t.int({ nullable: true, description: 'Page of a PDF, from 1.', resolve: ({ page }) => page ?? null }),
      sheet: t.string({ nullable: true, description: 'Sheet of a workbook.', resolve: ({ sheet }) => sheet ?? null }),
    }),
  });
export { WarningRef };

const PreviewSuccess = builder.objectRef<Preview>('PreviewExtractionSuccess').implement({
  description: 'What the definition makes of the document; nothing of it is stored.',
  fields: (t) => ({
    document: t.prismaField({
      type: DocumentRef,
      nullable: true,
      description: 'The document.',
      resolve: (query, { documentId }, _, { app }) =>
        app.db.document.findUnique({ ...query, where: { id: documentId } }),
    }),
    tables: t.field({
      type: [PreviewTableRef],
      description: 'Its tables in order, at most 50.',
      resolve: ({ tables }) => [...tables],
    }),
    warnings: t.field({
      type: [WarningRef],
      description: 'What a reader should know, at most 50.',
      resolve: ({ warnings }) => [...warnings],
    }),
    truncated: t.exposeBoolean('truncated', { description: 'Whether the document has tables beyond these.' }),
  }),
});

const configuration = 'Global id of the configuration.';

builder.mutationFields((t) => ({
  createConfiguration: t.fieldWithInput({
    access: can.createConfiguration,
    type: configurationSuccess('CreateConfigurationSuccess', 'The configuration is there, in its version 1.'),
    errors: failing(Conflict, DocumentQuotaExceeded),
    description: 'Creates a configuration for extractions.',
    input: {
      workspaceId: t.input.id({ description: 'Global id of the workspace.' }),
      name: t.input.string({ description: 'Unique within the workspace, 1 to 120 characters.' }),
      definition: t.input.field({ type: DefinitionInput, description: 'How tables are found and read.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Configurations).create(actor, {
        ...input,
        workspaceId: rowId('Workspace', input.workspaceId),
        definition: given(input.definition),
      }),
  }),
  updateConfiguration: t.fieldWithInput({
    access: can.updateConfiguration,
    type: configurationSuccess('UpdateConfigurationSuccess', 'It has another version, for jobs from now on.'),
    errors: failing(Conflict, ConfigurationConflict),
    description: 'Changes a configuration, which makes a new version of it. Jobs keep the version that they have.',
    input: {
      id: t.input.id({ description: configuration }),
      expectedVersion: t.input.int({
        description: 'The version that you have seen; another one is a ConfigurationConflict.',
      }),
      name: t.input.string({ required: false, description: 'Its new name; absent: it stays.' }),
      definition: t.input.field({
        type: DefinitionInput,
        required: false,
        description: 'All of its new definition; absent: it stays.',
      }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Configurations).update(actor, {
        ...input,
        id: rowId('ExtractionConfiguration', input.id),
        definition: input.definition && given(input.definition),
      }),
  }),
  archiveConfiguration: t.fieldWithInput({
    access: can.archiveConfiguration,
    type: configurationSuccess('ArchiveConfigurationSuccess', 'It takes no more jobs, and its name is free.'),
    errors: failing(),
    description: 'Puts a configuration away. What was extracted with it stays, and tells it.',
    input: { id: t.input.id({ description: configuration }) },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Configurations).archive(actor, rowId('ExtractionConfiguration', input.id)),
  }),
  previewExtraction: t.fieldWithInput({
    access: can.previewExtraction,
    type: PreviewSuccess,
    complexity: 100,
    errors: failing(Conflict, RateLimited, DocumentQuarantined, ...readingFails),
    description:
      'Extracts the first rows of the tables of a document, at once and without a job. It ends when you go away.',
    input: {
      documentId: t.input.id({ description: 'Global id of the document.' }),
      configurationId: t.input.id({
        required: false,
        description:
          'Global id of the configuration to try, the version that holds. Without it and `definition`: the defaults.',
      }),
      definition: t.input.field({
        type: DefinitionInput,
        required: false,
        description: 'A definition to try, in place of a configuration.',
      }),
      rows: t.input.int({
        required: false,
        description: `Rows of each table, 1 to ${maxPreviewRows}; default: 20. Of all tables together 5000 cells are given.`,
      }),
    },
    resolve: (_, { input }, { app, actor, gone }) =>
      app.use(Previews).extract(
        actor,
        {
          documentId: rowId('Document', input.documentId),
          configurationId: input.configurationId && rowId('ExtractionConfiguration', input.configurationId),
          definition: input.definition && given(input.definition),
          rows: input.rows ?? undefined,
        },
        gone,
      ),
  }),
}));
