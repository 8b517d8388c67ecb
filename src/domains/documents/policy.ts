import { definePolicy, inWorkspace, withParent } from '#kernel/auth/policy.ts';

export const can = definePolicy('documents', {
  verbs: {
    uploadDocument: 'MEMBER',
    deleteDocument: 'MEMBER',
    createConfiguration: 'MEMBER',
    updateConfiguration: 'MEMBER',
    archiveConfiguration: 'MEMBER',
    previewExtraction: 'MEMBER',
    submitExtractionJob: 'MEMBER',
    correctCell: 'MEMBER',
    confirmCells: 'MEMBER',
    completeReview: 'MEMBER',
    exportTable: 'MEMBER',
    exportTables: 'MEMBER',
    // It removes what others uploaded.
    setDocumentRetention: 'ADMIN',
    // What the model is told leaves the server.
    setDocumentModel: 'ADMIN',
  },
  rows: {
    Document: inWorkspace('VIEWER'),
    DocumentRetention: withParent,
    DocumentModelSetting: withParent,
    ExtractionConfiguration: inWorkspace('VIEWER'),
    // Reached through their configuration.
    ExtractionConfigurationVersion: withParent,
    // A job is a run, and so is an export: the rule of Run holds for them.
    ExtractionJob: withParent,
    TableExport: withParent,
    ExtractedTable: inWorkspace('VIEWER'),
    // Reached through their table.
    ExtractedColumn: withParent,
    ExtractedCell: withParent,
    CellCorrection: withParent,
  },
}).verbs;
