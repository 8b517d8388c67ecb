import DataLoader from 'dataloader';
import { AlertCondition } from '#prisma';
import { NotFound, ValidationError } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import type { Context } from '#kernel/graphql/context.ts';
import { globalId, rowId } from '#kernel/graphql/global-id.ts';
import { cursorOf, descriptionOfCursor, failing, guarded, visible } from '#kernel/graphql/kit.ts';
import { workspaceStream } from '#kernel/live/workspace-stream.ts';
import { resolutions, type Resolution } from '../model.ts';
import { can } from '../policy.ts';
import { ApplicationRef } from '../schema.ts';
import { Alerts, maxPoints, Metrics, resolutionFor, type Point, type RuleWritten } from '../service/index.ts';

const ResolutionEnum = builder.enumType('MetricResolution', {
  description: 'Length of time that a point stands for.',
  values: {
    LOOK: { description: 'Each look at the instance, every few seconds; kept for a day.' },
    MINUTE: { description: 'A minute; kept for 14 days.' },
    HOUR: { description: 'An hour; kept for 400 days.' },
  } as const satisfies Record<Resolution, object>,
});

const MissingFigure = builder.objectRef<{ figure: string; reason: string }>('MissingFigure').implement({
  description: 'A figure that is not known, which is never told as 0.',
  fields: (t) => ({
    figure: t.exposeString('figure', {
      description: 'CPU, MEMORY, MEMORY_LIMIT, DISK, NETWORK, or HEALTH: no health check was made.',
    }),
    reason: t.exposeString('reason', {
      description:
        'SHARED_WITH_HOST: the driver cannot tell it from others’; NO_LIMIT: there is none; NOT_REPORTED: the system does not tell; NOT_RUNNING: the instance did not run; NO_ANSWER: the driver did not answer in time; FIRST_LOOK: rates are known from the second look on; OTHER_SYSTEM: not on this operating system.',
    }),
  }),
});

const figure = (description: string) => ({ nullable: true, description }) as const;

const MetricPointRef = builder.objectRef<Point>('MetricPoint').implement({
  description: 'What the instance that served used, and how it answered, at a time or over a span.',
  fields: (t) => ({
    at: t.expose('at', { type: 'DateTime', description: 'When, or the beginning of the span.' }),
    samples: t.exposeInt('samples', { description: 'Looks that it is made of.' }),
    cpus: t.float({
      ...figure('Processors in use, mean; 1 is one processor.'),
      resolve: ({ milliCpus }) => (milliCpus === null ? null : milliCpus / 1000),
    }),
    cpusMost: t.float({
      ...figure('The most processors in use at one look.'),
      resolve: ({ milliCpusMost }) => (milliCpusMost === null ? null : milliCpusMost / 1000),
    }),
    memoryBytes: t.exposeFloat('memoryBytes', figure('Memory in use, bytes, mean.')),
    memoryBytesMost: t.exposeFloat('memoryBytesMost', figure('The most memory at one look, bytes.')),
    memoryLimitBytes: t.exposeFloat('memoryLimitBytes', figure('Memory that it may take, bytes.')),
    diskReadBytes: t.exposeFloat('diskReadBytes', figure('Read from block devices since the point before, bytes.')),
    diskWrittenBytes: t.exposeFloat('diskWrittenBytes', figure('Written to them, bytes.')),
    networkReceivedBytes: t.exposeFloat('networkReceivedBytes', figure('Received since the point before, bytes.')),
    networkSentBytes: t.exposeFloat('networkSentBytes', figure('Sent, bytes.')),
    probes: t.exposeInt('probes', { description: 'Health checks that were made.' }),
    healthy: t.exposeInt('healthy', { description: 'Health checks that were answered well and in time.' }),
    latencyMs: t.exposeFloat('latencyMs', figure('Time to the answer of those, milliseconds, mean.')),
    latencyMsMost: t.exposeFloat('latencyMsMost', figure('The longest of those, milliseconds.')),
    missing: t.field({
      type: [MissingFigure],
      description: 'Figures that are null, and why.',
      resolve: ({ missing }) =>
        missing.map((one) => {
          const [name = '', reason = ''] = one.split(':');
          return { figure: name, reason };
        }),
    }),
  }),
});

interface Series {
  readonly resolution: Resolution;
  readonly points: readonly Point[];
}

const MetricSeries = builder.objectRef<Series>('MetricSeries').implement({
  description: 'Points of a time, at one resolution.',
  fields: (t) => ({
    resolution: t.expose('resolution', { type: ResolutionEnum, description: 'Of all of the points.' }),
    points: t.field({
      type: [MetricPointRef],
      description: 'Oldest first. Where there is none, nothing was looked at.',
      resolve: ({ points }) => [...points],
    }),
  }),
});

const hourMs = 3_600_000;

/** What a request asks of the same time is read for all of its applications at once. */
const requests = new WeakMap<
  Context,
  { readonly now: Date; readonly loaders: Map<string, DataLoader<string, Point[]>> }
>();

function requestOf(context: Context) {
  const request = requests.get(context) ?? { now: new Date(), loaders: new Map() };
  requests.set(context, request);
  return request;
}
const nowOf = (context: Context): Date => requestOf(context).now;

function loadPoints(context: Context, from: Date, to: Date, resolution: Resolution): DataLoader<string, Point[]> {
  const { loaders } = requestOf(context);
  const key = `${from.getTime()} ${to.getTime()} ${resolution}`;
  const loader =
    loaders.get(key) ??
    new DataLoader<string, Point[]>(async (ids) => {
      const found = await context.app.use(Metrics).between(ids, from, to, resolutions[resolution]);
      return ids.map((id) => found.get(id) ?? []);
    });
  loaders.set(key, loader);
  return loader;
}

builder.prismaObjectField(ApplicationRef, 'metrics', (t) =>
  t.field({
    type: MetricSeries,
    complexity: { field: 10, multiplier: 10 },
    description: `What it used and how it answered; the newest ${maxPoints} points of that time.`,
    args: {
      from: t.arg({ type: 'DateTime', required: false, description: 'Beginning; default: an hour before the end.' }),
      to: t.arg({ type: 'DateTime', required: false, description: 'End, not included; default: now.' }),
      resolution: t.arg({
        type: ResolutionEnum,
        required: false,
        description: `Default: the finest that is kept and needs at most ${maxPoints} points.`,
      }),
    },
    async resolve({ id }, args, context) {
      const to = args.to ?? nowOf(context);
      const from = args.from ?? new Date(to.getTime() - hourMs);
      if (from >= to) throw new ValidationError([{ path: 'from', message: 'must be before `to`' }]);
      const resolution = args.resolution ?? resolutionFor(from, to);
      return { resolution, points: await loadPoints(context, from, to, resolution).load(id) };
    },
  }),
);

const AlertConditionEnum = builder.enumType(AlertCondition, {
  name: 'AlertCondition',
  description: 'What an alert rule looks at.',
  values: {
    UNHEALTHY: { description: 'Failed health checks; threshold: percent of them.' },
    RESTARTS: { description: 'Restarts of the instance that serves; threshold: how many within the window.' },
    MEMORY: { description: 'Memory in use; threshold: percent of its limit. Never holds where there is no limit.' },
    CPU: { description: 'Processor time; threshold: thousandths of a processor.' },
  },
});

export const AlertRuleRef = builder.prismaNode('AlertRule', {
  id: { field: 'id' },
  description: 'Opens an inbox item while a condition of an application holds.',
  ...guarded('AlertRule'),
  fields: (t) => ({
    condition: t.expose('condition', { type: AlertConditionEnum, description: 'What it looks at.' }),
    threshold: t.exposeFloat('threshold', { description: 'It holds from here on; the unit is the condition’s.' }),
    windowS: t.exposeInt('windowS', {
      description: 'How long it must hold, seconds; for restarts, within which they are counted.',
    }),
    application: t.relation('application', { description: 'What it is about.' }),
  }),
});

builder.prismaObjectField(ApplicationRef, 'alertRules', (t) =>
  t.relation('alertRules', {
    description: 'Its rules: at most one for each condition.',
    query: (_, context) => ({ where: visible(context, 'AlertRule'), orderBy: { condition: 'asc' as const } }),
  }),
);

const cursorField = { nullable: true, description: descriptionOfCursor } as const;

builder.mutationFields((t) => ({
  setAlertRule: t.fieldWithInput({
    access: can.setAlertRule,
    type: builder.objectRef<RuleWritten>('SetAlertRuleSuccess').implement({
      description: 'The rule holds from now on.',
      fields: (f) => ({
        rule: f.prismaField({
          type: AlertRuleRef,
          description: 'The rule.',
          resolve: (query, { id }, __, { app }) => app.db.alertRule.findUniqueOrThrow({ ...query, where: { id } }),
        }),
        eventCursor: f.string({ ...cursorField, resolve: ({ workspaceId, event }) => cursorOf(workspaceId, event) }),
      }),
    }),
    errors: failing(),
    description: "Makes or changes an application's rule for a condition.",
    input: {
      applicationId: t.input.id({ description: 'Global id of the application.' }),
      condition: t.input.field({ type: AlertConditionEnum, required: true, description: 'What it looks at.' }),
      threshold: t.input.float({ description: 'It holds from here on; the unit is the condition’s. Above 0.' }),
      windowS: t.input.int({ description: 'How long it must hold, seconds, 30 to 3600.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Alerts).set(actor, { ...input, applicationId: rowId('Application', input.applicationId) }),
  }),
  deleteAlertRule: t.fieldWithInput({
    access: can.deleteAlertRule,
    type: builder.objectRef<RuleWritten>('DeleteAlertRuleSuccess').implement({
      description: 'The rule is gone, and so is what it had opened in the inbox.',
      fields: (f) => ({
        id: f.id({ description: 'Global id that it had.', resolve: ({ id }) => globalId('AlertRule', id) }),
        eventCursor: f.string({ ...cursorField, resolve: ({ workspaceId, event }) => cursorOf(workspaceId, event) }),
      }),
    }),
    errors: failing(),
    description: 'Removes an alert rule.',
    input: { id: t.input.id({ description: 'Global id of the rule.' }) },
    resolve: (_, { input }, { app, actor }) => app.use(Alerts).delete(actor, rowId('AlertRule', input.id)),
  }),
}));

builder.subscriptionField('metricsUpdated', (t) =>
  t.field({
    access: 'member',
    type: MetricPointRef,
    description: 'Each look at the instance of an application that serves, as it is made.',
    args: {
      applicationId: t.arg.id({ description: 'Global id of the application.' }),
      after: t.arg({
        type: 'DateTime',
        required: false,
        description: '`at` of the last point that you have: what came since is told first. Default: now.',
      }),
    },
    async subscribe(_, args, context) {
      const id = rowId('Application', args.applicationId);
      const application = await context.app.db.application.findFirst({
        where: visible(context, 'Application', { id }),
        select: { workspaceId: true },
      });
      if (!application) throw new NotFound('Application', args.applicationId);
      return workspaceStream(context, application.workspaceId, (signal) =>
        context.app.use(Metrics).follow(id, args.after ?? new Date(), signal),
      );
    },
    resolve: (point) => point as never,
  }),
);
