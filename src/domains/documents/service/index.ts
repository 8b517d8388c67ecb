export {
  DocumentEncrypted,
  DocumentBeyondLimits,
  DocumentUnsupported,
  ExtractionError,
  ExtractorUnavailable,
  cellNotes,
  columnTypes,
  type Cell,
  type Citation,
  type Column,
  type Definition,
} from '../../../integrations/extractors/index.ts';
export { Configurations, definitionOf } from './configurations.ts';
export { Documents } from './documents.ts';
export { ExtractionJobs, extractionKind } from './jobs.ts';
export { Retentions } from './maintenance.ts';
export { ModelUse } from './model-use.ts';
export { Previews, type Preview, type PreviewTable } from './previews.ts';
export { sentenceOf } from './quarantine.ts';
export { type Written } from './shared.ts';
export { startDocuments, type DocumentsOptions } from './start.ts';
