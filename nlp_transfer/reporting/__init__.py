"""What a person looks at: terminal tables and pages."""
